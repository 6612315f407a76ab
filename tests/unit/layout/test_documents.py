"""Documents point at what exists, and reasons of conditions are explained to people."""

import re
from pathlib import Path

import pytest

from warmfleet_api.vocabulary import CacheReason, ConditionType, Reason

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_condition_and_reason_is_explained() -> None:
    page = (ROOT / "docs" / "guide" / "status.md").read_text()
    assert [word for word in (*ConditionType, *Reason, *CacheReason) if f"`{word}`" not in page] == []
