import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmfleet_agent.sources import RemoteFile, SourceError
from warmfleet_agent.sources.formats import choose
from warmfleet_agent.store.manifest import check_path
from warmfleet_api.vocabulary import WeightsProblem

URI = "hf://org/model"


def chosen(*paths: str) -> list[str]:
    return [file.path for file in choose(URI, [RemoteFile(path, 10, None) for path in paths])]


def refusal(*paths: str) -> SourceError:
    with pytest.raises(SourceError) as caught:
        chosen(*paths)
    assert caught.value.retry_after_seconds is None
    return caught.value


def test_weights_tokenizer_and_configuration_are_fetched_and_nothing_else() -> None:
    assert chosen(
        "model.safetensors",
        "config.json",
        "tokenizer.model",
        "merges.txt",
        "chat_template.jinja",
        "1_Pooling/config.json",
        "README.md",
        "pytorch_model.bin",
        "modeling_x.py",
        "train.ckpt",
        ".gitattributes",
        ".cache/x.safetensors",
        "onnx/model.onnx",
        "original/model.safetensors",
        "manifest.json",
        "picture of it.png",
    ) == [
        "1_Pooling/config.json",
        "chat_template.jinja",
        "config.json",
        "merges.txt",
        "model.safetensors",
        "tokenizer.model",
    ]


def test_weights_that_are_there_twice_are_fetched_once() -> None:
    found = chosen("model-00001-of-00001.safetensors", "consolidated.safetensors", "params.json")
    assert found == ["model-00001-of-00001.safetensors", "params.json"]
    assert chosen("consolidated.safetensors", "params.json") == ["consolidated.safetensors", "params.json"]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a.pt", "a.pth", "a.ckpt", "a.pkl", "x.PT", "model.npz", "m.h5"])
def test_a_model_with_only_pickled_weights_says_what_to_do_instead(name: str) -> None:
    error = refusal(name, "config.json")
    assert error.reason is WeightsProblem.UNSAFE_FORMAT
    assert "convert" in str(error)


def test_a_model_in_another_format_and_one_without_weights_are_told_apart() -> None:
    assert refusal("model.gguf").reason is WeightsProblem.UNSAFE_FORMAT
    assert refusal("config.json").reason is WeightsProblem.MODEL_NOT_FOUND


@pytest.mark.parametrize(
    "path",
    [
        "../model.safetensors",
        "a/../../model.safetensors",
        "/etc/model.safetensors",
        "a\x00.safetensors",
        "a\n.safetensors",
        "a\\..\\b.safetensors",
        "..",
        "a/b\r/c.png",
        "x" * 4096 + ".safetensors",
        "x" * 300 + ".safetensors",
        "a//b.safetensors",
        "-rf.safetensors",
        "with space.safetensors",
        "a/b/c/d/e/f/g/h/i.safetensors",
    ],
)
def test_a_name_that_no_store_may_hold_refuses_the_model(path: str) -> None:
    error = refusal("model.safetensors", path)
    assert error.reason is WeightsProblem.FORBIDDEN_SOURCE
    assert len(str(error)) < 400


def test_a_file_that_is_also_a_folder_one_twice_and_a_false_size_are_refused() -> None:
    assert "folder" in str(refusal("a.json", "a.json/model.safetensors"))
    assert "twice" in str(refusal("model.safetensors", "model.safetensors"))
    for size in (-1, 10**12):
        with pytest.raises(SourceError):
            choose(URI, [RemoteFile("model.safetensors", 1, None), RemoteFile("config.json", size, None)])


@settings(deadline=None)
@given(st.lists(st.one_of(st.text(max_size=30), st.from_regex(r"\A[./\\a\x00\n-]{0,6}\.safetensors\Z")), max_size=6))
def test_whatever_is_chosen_a_store_takes(paths: list[str]) -> None:
    try:
        found = chosen(*paths)
    except SourceError:
        return
    for path in found:
        check_path(path)
