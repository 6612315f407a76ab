"""Label selectors, as kubectl and the API server write them."""

import contextlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmfleet_external_metrics.selectors import LabelSelector, parse

LABELS = {"model": "llama", "namespace": "team", "a.b/c-d": "x_1"}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("", True),
        ("model=llama", True),
        ("model==llama", True),
        (" model = llama , namespace = team ", True),
        ("model=other", False),
        ("model=llama,namespace=other", False),
        ("model!=other", True),
        ("model!=llama", False),
        ("missing!=llama", True),
        ("missing=", False),
        ("model", True),
        ("!model", False),
        ("missing", False),
        ("! missing", True),
        ("model in (mistral, llama)", True),
        ("model in (mistral),namespace=team", False),
        ("model notin (mistral,qwen)", True),
        ("model notin (llama)", False),
        ("missing notin (llama)", True),
        ("missing in ()", False),
        ("a.b/c-d=x_1", True),
    ],
)
def test_a_selector_means_what_it_means_to_kubectl(text: str, holds: bool) -> None:
    assert parse(text).holds(LABELS) is holds


@pytest.mark.parametrize(
    "text",
    [
        *(",", "model=llama,", ",model", "model=llama namespace=team", "model=a=b", "model in llama", "model in (a"),
        *(
            "=a",
            "!",
            "model=la ma",
            "model>3",
            "-model",
            "modelin (a)",
            "model=" + "a" * 64,
            "model in (a b)",
            "a" * 4097,
        ),
    ],
)
def test_what_is_no_selector_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="label selector"):
        parse(text)


words = st.text(string.ascii_letters + string.digits, min_size=1, max_size=8)


@given(st.dictionaries(words, words, max_size=5))
def test_labels_written_as_a_selector_hold_for_themselves_and_for_more(labels: dict[str, str]) -> None:
    selector = parse(",".join(f"{key}={value}" for key, value in labels.items()))
    assert selector.holds(labels | {"more.example": "yes"})
    assert all(not selector.holds(labels | {key: value + "x"}) for key, value in labels.items())


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse(text), LabelSelector)
