"""The checker of the acceptance tests finds what it is there to find."""

from __future__ import annotations

import pytest

from tests.acceptance.topic_check import Findings, Occurrence, examine

COMMITTED = {"a": 3, "b": 2}


def found(text: str) -> Findings:
    """Examine messages written as "a1 b1 …", all in one partition."""
    return examine((Occurrence(0, word[0], int(word[1:])) for word in text.split()), COMMITTED)


def test_a_complete_topic_in_order_has_no_faults() -> None:
    findings = found("a1 b1 a2 b2 a3")
    assert findings == Findings(5, 0, 0, 0, repeats=0, rewinds=0, jumps=0)


@pytest.mark.parametrize(
    ("text", "lost", "phantoms", "reordered"),
    [
        ("a1 a2 a3 b1", 1, 0, 0),
        ("", 5, 0, 0),
        ("a1 a2 a3 b1 b2 b3", 0, 1, 0),
        ("a1 a2 a3 b1 b2 c1", 0, 1, 0),
        ("a1 a3 a2 b1 b2", 0, 0, 1),
        ("a2 a3 a1 b2 b1", 0, 0, 2),
    ],
)
def test_a_fault_is_found(text: str, lost: int, phantoms: int, reordered: int) -> None:
    findings = found(text)
    assert (findings.lost, findings.phantoms, findings.reordered) == (lost, phantoms, reordered)


@pytest.mark.parametrize(
    ("text", "repeats", "rewinds", "jumps"),
    [
        ("a1 b1 a2 b1 a2 b2 a3", 2, 1, 0),  # from b1 on, sent a second time
        ("a1 b1 b1 b1 a2 b2 a3", 2, 2, 0),
        ("a1 b1 a2 a1 b2 a3", 1, 1, 1),  # a stale message among newer ones
    ],
)
def test_repeats_are_told_apart(text: str, repeats: int, rewinds: int, jumps: int) -> None:
    findings = found(text)
    assert findings.faults == 0
    assert (findings.repeats, findings.rewinds, findings.jumps) == (repeats, rewinds, jumps)
