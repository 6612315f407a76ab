from pathlib import Path

import pytest

from localcluster.errors import ClusterError
from localcluster.record import Fleet, Record, Wish


def test_a_record_survives_the_disk(tmp_path: Path) -> None:
    record = Record("local", 2, nodes=1, fleet=Fleet(5, player_command=("sh", "-c", "x")), images=("/a/image.json",))
    record.save(tmp_path / "cluster.json")
    assert Record.load(tmp_path / "cluster.json") == record


def test_what_is_not_wished_stays_as_it_is() -> None:
    record = Record("local", 0, nodes=5, gpus_per_node=4, fast_node_loss=True)
    assert record.wished(Wish()) == record
    assert record.wished(Wish(nodes=2)).nodes == 2
    assert record.wished(Wish(gpus_per_node=0)).gpus_per_node == 0
    assert record.wished(Wish(fast_node_loss=False)).fast_node_loss is False


def test_no_record_is_no_cluster(tmp_path: Path) -> None:
    assert Record.load(tmp_path / "cluster.json") is None


def test_a_record_of_another_version_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    path.write_text('{"provider": "local", "index": 0, "fleet": {"player_command": []}, "images": [], "colour": "red"}')
    with pytest.raises(ClusterError, match=r"another version.*end that cluster"):
        Record.load(path)
