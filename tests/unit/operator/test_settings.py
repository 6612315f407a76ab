"""Settings: what a person sets, and what is said when it can't be used."""

import base64
from pathlib import Path

import pytest

from warmfleet_kube import credentials
from warmfleet_kube.errors import BadSetting
from warmfleet_operator import settings


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(f"WARMFLEET_{name.upper()}", raising=False)


def test_nothing_needs_to_be_set() -> None:
    loaded = settings.load()
    assert loaded.runtime_image == f"ghcr.io/warmfleet/warmfleet-runtime:{settings.VERSION}"
    assert loaded.limits().default_image == loaded.runtime_image


@pytest.mark.parametrize("text", ['["{0}", "{1}"]', "{0},{1}", " {0} , {1} "])
def test_keys_are_a_json_list_or_separated_by_commas(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2)]
    monkeypatch.setenv("WARMFLEET_ROUTER_PUBLIC_KEYS", text.format(*keys))
    assert settings.load().limits().trusted_keys == tuple(keys)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PORT", "http", "WARMFLEET_PORT='http': .*integer"),
        ("LEASE_SECONDS", "0", "WARMFLEET_LEASE_SECONDS='0': .*greater"),
        ("ROUTER_PUBLIC_KEYS", "[not json", "WARMFLEET_ROUTER_PUBLIC_KEYS"),
        ("IMAGE_PULL_POLICY", "Sometimes", "WARMFLEET_IMAGE_PULL_POLICY='Sometimes': .*'IfNotPresent'"),
    ],
)
def test_a_bad_setting_is_named_with_its_value(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"WARMFLEET_{name}", value)
    with pytest.raises(BadSetting, match=said):
        settings.load()


def test_the_lease_is_in_the_namespace_of_the_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "SERVICE_ACCOUNT_DIRECTORY", tmp_path)
    assert settings.load().namespace == credentials.FALLBACK_NAMESPACE
    (tmp_path / "namespace").write_text("elsewhere\n")
    assert settings.load().namespace == "elsewhere"


def test_the_kubeconfig_of_kubectl_is_taken_unless_an_own_one_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/a")
    assert settings.load().kubeconfig == "/a"
    monkeypatch.setenv("WARMFLEET_KUBECONFIG", "/b")
    assert settings.load().kubeconfig == "/b"


def test_public_keys_of_routers_are_read_and_reach_the_decisions(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2)]
    monkeypatch.setenv("WARMFLEET_ROUTER_PUBLIC_KEYS", ", ".join(keys))
    assert settings.load().limits().trusted_keys == tuple(keys)


@pytest.mark.parametrize(
    "text", ["not base64", base64.b64encode(b"short").decode(), ",".join([base64.b64encode(bytes(32)).decode()] * 3)]
)
def test_bad_public_keys_are_refused_with_the_way_to_make_one(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("WARMFLEET_ROUTER_PUBLIC_KEYS", text)
    with pytest.raises(BadSetting, match="WARMFLEET_ROUTER_PUBLIC_KEYS") as refusal:
        settings.load()
    assert "openssl genpkey -algorithm ed25519" in str(refusal.value) or "at most 2" in str(refusal.value)
