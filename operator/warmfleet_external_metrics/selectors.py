"""Label selectors as kubectl and the API server write them: `a=b,c!=d,e in (f,g),h notin (i),j,!k`. Pure.

Grammar: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

MAX_LENGTH = 4096
_KEY = r"[A-Za-z0-9](?:[A-Za-z0-9_./-]{0,315}[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?"
_REQUIREMENT = re.compile(
    rf"""\s*(?:
        !\s*(?P<absent>{_KEY})
      | (?P<key>{_KEY})\s*(?:
            (?P<equality>==?|!=)\s*(?P<value>{_VALUE})
          | \s(?P<operator>in|notin)\s*\(\s*(?P<values>{_VALUE}(?:\s*,\s*{_VALUE})*)\s*\)
        )?
    )\s*(?:,|$)""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One part of a selector: a label's value has to be, or must not be, among some."""

    key: str
    values: frozenset[str] | None
    """None: any."""
    negated: bool = False

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether labels are as required. What has no such label is among no values."""
        value = labels.get(self.key)
        among = value is not None if self.values is None else value in self.values
        return among is not self.negated


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """Holds where all parts hold; without any it holds everywhere."""

    requirements: tuple[Requirement, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether labels are as required."""
        return all(each.holds(labels) for each in self.requirements)


def parse(text: str) -> LabelSelector:
    """Read a selector.

    Raises:
        ValueError: it is none, or too long.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"the label selector is longer than {MAX_LENGTH} characters")
    found = []
    position = 0
    rest = text.strip()
    while position < len(rest):
        match = _REQUIREMENT.match(rest, position)
        if match is None or (match.end() == len(rest) and rest.endswith(",")):
            raise ValueError(
                f"unreadable label selector at {rest[position : position + 40]!r}; write a=b,c!=d,e in (f,g)"
            )
        found.append(_requirement(match))
        position = match.end()
    return LabelSelector(tuple(found))


def _requirement(match: re.Match[str]) -> Requirement:
    if absent := match["absent"]:
        return Requirement(absent, None, negated=True)
    if match["equality"]:
        return Requirement(match["key"], frozenset({match["value"]}), negated=match["equality"] == "!=")
    if match["operator"]:
        values = frozenset(each.strip() for each in match["values"].split(","))
        return Requirement(match["key"], values, negated=match["operator"] == "notin")
    return Requirement(match["key"], None)
