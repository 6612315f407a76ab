"""What only a real runner can find out is said within 30 s, and disturbs no other model."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support.endpoint import traffic
from support.kubeapi import Object
from support.models import simulated, vllm
from support.namespace import Namespace, settled

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

STALLED_SECONDS = 30
VLLM_SECONDS = 150
"""vLLM reads its options after most of a minute of imports on a busy machine."""


def no_weights(folder: Path) -> None:
    for weights in folder.glob("*.safetensors"):
        weights.unlink()


def pickled_weights(folder: Path) -> None:
    for weights in folder.glob("*.safetensors"):
        weights.rename(weights.with_suffix(".bin"))


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "reason", "words"),
    [
        (no_weights, "ModelNotFound", "safetensors"),
        (no_config, "ModelNotFound", "config.json"),
        (pickled_weights, "UnsafeFormat", "safetensors"),
    ],
)
def test_spoilt_weights_are_named(
    namespace: Namespace, models: Path, spoil: Callable[[Path], None], reason: str, words: str
) -> None:
    folder = models / spoil.__name__
    shutil.copytree(models / "tiny-llama", folder)
    spoil(folder)
    assert words in stalled(namespace, vllm("spoilt", str(folder)), reason)


def test_a_missing_folder_is_named(namespace: Namespace, models: Path) -> None:
    assert f"{models}/absent" in stalled(namespace, vllm("absent", f"{models}/absent"), "ModelNotFound")


def test_a_value_that_vllm_refuses_is_named(namespace: Namespace, models: Path) -> None:
    model = vllm("refused", f"{models}/tiny-llama", args=["--max-num-seqs=many"])
    assert "--max-num-seqs" in stalled(namespace, model, "InvalidArgs")


def test_what_only_vllm_itself_can_refuse_is_told_in_its_words(namespace: Namespace, models: Path) -> None:
    model = vllm("long", f"{models}/tiny-llama")
    model["spec"]["engine"]["maxModelLen"] = 1_000_000
    assert "engine.maxModelLen" in stalled(namespace, model, "InvalidArgs", within=VLLM_SECONDS)


def test_an_image_that_can_not_be_pulled_is_named(namespace: Namespace) -> None:
    image = "registry.invalid/no/such:image"
    model = simulated("imageless", podTemplate={"image": image})
    assert image in stalled(namespace, model, "ImagePullFailed")


def test_a_failing_model_disturbs_no_other(namespace: Namespace, models: Path) -> None:
    namespace.apply(simulated("healthy"))
    namespace.wait_ready("healthy")
    with traffic(namespace, "healthy") as seen:
        stalled(namespace, vllm("absent", f"{models}/absent"), "ModelNotFound")
        stalled(namespace, simulated("crashing", fault="CrashAtStart"), "EngineCrashing")
        namespace.stays("the healthy model is Ready", lambda: settled(namespace.model("healthy")), 3)
    assert seen.answered > 10
    assert seen.failures == []


def stalled(namespace: Namespace, model: Object, reason: str, within: float = STALLED_SECONDS) -> str:
    """Apply a model and return the message with which it is Stalled."""
    namespace.apply(model)
    found = namespace.wait_condition(model["metadata"]["name"], "Stalled", "True", reason, within=within)
    message: str = found["message"]
    return message
