"""Compare the generated files with their sources, or write them: `hack/verify [--write]`."""

import argparse
import difflib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from crdgen import engine_table, protocols
from crdgen.definition import definitions
from crdgen.reference import reference_page
from crdgen.structural import Refused
from warmfleet_api import names

ROOT = Path(__file__).resolve().parents[2]
MAX_CRD_BYTES = 200_000
"""`kubectl apply` keeps a copy in an annotation, which ends at 256 KiB."""
_HEADER = "# Generated from operator/warmfleet_api by `hack/verify --write`; do not edit.\n"
_SHOWN_LINES = 40


def generated_files() -> dict[Path, str]:
    """Return every generated file with its text, by path below the repository's root.

    Raises:
        Refused: a model holds something that a CRD can't say, or the CRD grew too large.
    """
    files: dict[Path, str] = {}
    for crd in definitions():
        text = _HEADER + _yaml(crd)
        if len(text) > MAX_CRD_BYTES:
            raise Refused("", f"its CRD has {len(text)} bytes, at most {MAX_CRD_BYTES} fit; shorten descriptions")
        files[Path("crds") / f"{names.GROUP}_{crd['spec']['names']['plural']}.yaml"] = text
        files[Path("docs/reference") / f"{crd['spec']['names']['singular']}.md"] = reference_page(crd)
    resources = sorted(path.name for path in files if path.parent.name == "crds")
    kustomization = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources}
    files[Path("crds/kustomization.yaml")] = _HEADER + _yaml(kustomization)
    return files | protocols.message_files()


def differences(files: dict[Path, str]) -> Iterator[str]:
    """Yield, for each file that is not as generated, what is different."""
    for path, wanted in files.items():
        present = (ROOT / path).read_text() if (ROOT / path).exists() else ""
        diff = difflib.unified_diff(
            present.splitlines(), wanted.splitlines(), f"{path} (present)", f"{path} (generated)", lineterm=""
        )
        lines = list(diff)
        if lines:
            yield "\n".join(lines[:_SHOWN_LINES])


def main() -> int:
    """Run the command; the exit status is 1 where a file differs."""
    parser = argparse.ArgumentParser(prog="hack/verify", description="Check that generated files are up to date.")
    parser.add_argument("--write", action="store_true", help="write them instead of comparing")
    arguments = parser.parse_args()
    try:
        files = generated_files() | _engine_table_file()
    except (Refused, engine_table.EngineTableError) as error:
        print(f"hack/verify: {error}", file=sys.stderr)
        return 1
    if arguments.write:
        for path, text in files.items():
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(text)
        return 0
    found = list(differences(files))
    if found:
        print("\n".join(found))
        print("\nGenerated files are not up to date. Run: hack/verify --write", file=sys.stderr)
        return 1
    print(f"{len(files)} generated files are up to date.")
    return 0


def _engine_table_file() -> dict[Path, str]:
    table = engine_table.engine_table()
    if table is None:
        print(
            f"{engine_table.TABLE} is not compared: no runtime image with vLLM {engine_table.pinned_version()}"
            " was built here (hack/images/build)"
        )
        return {}
    return {engine_table.TABLE: table}


def _yaml(document: dict[str, Any]) -> str:
    return yaml.safe_dump(document, sort_keys=False, width=120, allow_unicode=True)


if __name__ == "__main__":
    sys.exit(main())
