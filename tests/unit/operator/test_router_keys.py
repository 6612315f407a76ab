"""Which keys runners trust while the routers' key changes."""

from warmfleet_operator.router_keys import FORMER_SECONDS, follow


def test_the_first_key_is_alone() -> None:
    assert follow(None, "first", 0.0).keys(0.0) == ("first",)


def test_a_key_that_was_replaced_counts_until_routers_have_the_next_one() -> None:
    changed = follow(follow(None, "first", 0.0), "second", 100.0)
    assert changed.keys(100.0 + FORMER_SECONDS - 1) == ("second", "first")
    assert changed.keys(100.0 + FORMER_SECONDS) == ("second",)


def test_looking_again_prolongs_nothing() -> None:
    changed = follow(follow(None, "first", 0.0), "second", 100.0)
    assert follow(changed, "second", 500.0) == changed


def test_of_two_changes_in_a_row_the_last_two_keys_count() -> None:
    changed = follow(follow(follow(None, "first", 0.0), "second", 1.0), "third", 2.0)
    assert changed.keys(2.0) == ("third", "second")
