import io
import tarfile
import time
from hashlib import sha256
from pathlib import Path

from imagebuild.tree import TIMESTAMP, digest, hash_files, seal


def write(directory: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)


def sealed(directory: Path, files: dict[str, str]) -> Path:
    write(directory, files)
    (directory / "dangling").symlink_to("somewhere")
    (directory / "to-a-directory").symlink_to(".")
    seal(directory)
    return directory


def test_a_tree_made_later_in_another_order_has_the_same_digest(tmp_path: Path) -> None:
    early = sealed(tmp_path / "early", {"a/one": "1", "b": "2"})
    time.sleep(1.1)  # an archive has whole seconds
    late = sealed(tmp_path / "elsewhere" / "late", {"b": "2", "a/one": "1"})
    assert digest(early) == digest(late)


def test_content_and_mode_change_the_digest(tmp_path: Path) -> None:
    plain = sealed(tmp_path / "plain", {"a": "1"})
    other = sealed(tmp_path / "other", {"a": "2"})
    executable = sealed(tmp_path / "executable", {"a": "1"})
    (executable / "a").chmod(0o755)
    assert len({digest(tree).diff_id for tree in (plain, other, executable)}) == 3


def test_the_digest_is_that_of_a_tar_archive_of_the_tree(tmp_path: Path) -> None:
    tree = sealed(tmp_path / "tree", {"a/one": "1" * 20_000})
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in (tree, *sorted(tree.rglob("*"))):
            entry = tar.gettarinfo(path, arcname="." if path == tree else f"./{path.relative_to(tree)}")
            entry.uname = entry.gname = ""
            tar.addfile(entry, io.BytesIO(path.read_bytes()) if entry.isfile() else None)
    content = archive.getvalue()
    assert digest(tree).size_bytes == len(content)
    assert digest(tree).diff_id == f"sha256:{sha256(content).hexdigest()}"


def test_a_hard_link_from_outside_leaves_the_digest_as_it_was(tmp_path: Path) -> None:
    tree = sealed(tmp_path / "tree", {"a": "1"})
    before = digest(tree)
    (tmp_path / "snapshot").hardlink_to(tree / "a")
    assert digest(tree) == before


def test_sealing_drops_what_the_container_runtime_provides(tmp_path: Path) -> None:
    names = ("etc/resolv.conf", "etc/passwd", "dev/pts/0", "tmp/left", "run/own/x")
    write(tmp_path, dict.fromkeys(names, ""))
    seal(tmp_path)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"etc/passwd", "run/own/x"}
    assert (tmp_path / "dev").is_dir()
    assert {path.stat().st_mtime for path in tmp_path.rglob("*")} == {TIMESTAMP}


def test_the_hash_of_inputs_follows_names_and_contents_but_not_bytecode(tmp_path: Path) -> None:
    write(tmp_path, {"code/a.py": "1", "code/b.py": "2"})
    hashes = [hash_files(tmp_path / "code", below=tmp_path)]
    write(tmp_path, {"code/__pycache__/a.pyc": "x"})
    hashes.append(hash_files(tmp_path / "code", below=tmp_path))
    (tmp_path / "code/b.py").rename(tmp_path / "code/c.py")
    hashes.append(hash_files(tmp_path / "code", below=tmp_path))
    (tmp_path / "code/c.py").write_text("3")
    hashes.append(hash_files(tmp_path / "code", below=tmp_path))
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3
