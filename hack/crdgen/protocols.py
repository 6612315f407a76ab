"""The Python messages of the protocols that the node agent speaks."""

import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

from crdgen.structural import Refused

REPOSITORY = Path(__file__).resolve().parents[2]
_SOURCE_ROOT = Path("runtime")
FOLDER = _SOURCE_ROOT / "warmfleet_agent" / "csi" / "proto"


def message_files() -> dict[Path, str]:
    """Return the modules of messages and their types, by path below the repository's root.

    Only messages: the services are nine methods, which warmfleet_agent.csi names itself with their types.

    Raises:
        Refused: the compiler does; it has printed why.
    """
    protocols = sorted((REPOSITORY / FOLDER).glob("*.proto"))
    with tempfile.TemporaryDirectory() as made:
        known = Path(grpc_tools.__file__).parent / "_proto"
        includes = [f"--proto_path={REPOSITORY / _SOURCE_ROOT}", f"--proto_path={known}"]
        outputs = [f"--python_out={made}", f"--pyi_out={made}"]
        if protoc.main(["protoc", *includes, *outputs, *map(str, protocols)]) != 0:
            raise Refused(str(FOLDER), "protoc could not read the protocols")
        return {
            _SOURCE_ROOT / path.relative_to(made): path.read_text() for path in sorted(Path(made).rglob("*_pb2.py*"))
        }
