"""The router's key comes by a file, later than the router perhaps, and may change while it runs."""

from pathlib import Path

from support.tokens import public_key
from warmfleet_api import router_key
from warmfleet_router.key_file import ADOPT_SECONDS, KeyFile
from warmfleet_router.tokens import Tokens


def signs_with(tokens: Tokens) -> str:
    assert tokens.key is not None
    return public_key(tokens.key)


def test_a_key_that_comes_late_is_used_at_once(tmp_path: Path) -> None:
    tokens, path = Tokens(None), tmp_path / "router.pem"
    file = KeyFile(path, tokens)
    file.look(0.0)
    assert tokens.for_pod("uid", 0.0) is None
    path.write_bytes(pem := router_key.make())
    file.look(2.0)
    assert signs_with(tokens) == public_key(router_key.read(pem))


def test_a_changed_key_is_used_once_runners_have_heard_of_it(tmp_path: Path) -> None:
    path = tmp_path / "router.pem"
    path.write_bytes(first := router_key.make())
    tokens = Tokens(router_key.read(first))
    before = tokens.for_pod("uid", 0.0)
    file = KeyFile(path, tokens)
    path.write_bytes(second := router_key.make())
    file.look(10.0)
    file.look(10.0 + ADOPT_SECONDS - 1)
    assert tokens.for_pod("uid", 0.0) == before
    file.look(10.0 + ADOPT_SECONDS)
    assert signs_with(tokens) == public_key(router_key.read(second))
    assert tokens.for_pod("uid", 0.0) != before


def test_a_change_that_is_taken_back_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "router.pem"
    path.write_bytes(first := router_key.make())
    tokens = Tokens(router_key.read(first))
    file = KeyFile(path, tokens)
    path.write_bytes(router_key.make())
    file.look(0.0)
    path.write_bytes(first)
    file.look(10.0)
    file.look(10.0 + 2 * ADOPT_SECONDS)
    assert signs_with(tokens) == public_key(router_key.read(first))


def test_without_a_readable_key_signing_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "router.pem"
    path.write_bytes(first := router_key.make())
    tokens = Tokens(router_key.read(first))
    file = KeyFile(path, tokens)
    path.write_text("not a key")
    file.look(ADOPT_SECONDS)
    path.unlink()
    file.look(2 * ADOPT_SECONDS)
    assert signs_with(tokens) == public_key(router_key.read(first))
