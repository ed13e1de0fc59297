"""What lies beside the log and should not: planted, and found with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from outbox.config.retry_rules import RetryPolicy, RetryRules
from outbox.doctor.retries import reachable
from tests.doctor.installation import Installation

KINDS = ["on_sqlite", pytest.param("installation", marks=pytest.mark.postgresql)]


@pytest.fixture(params=KINDS)
def either(request: pytest.FixtureRequest) -> Installation:
    """Give the tables on each kind of database."""
    found: Installation = request.getfixturevalue(request.param)
    return found


def ago(installation: Installation, seconds: int) -> str:
    """Return SQL of a moment in the past."""
    if installation.url.startswith("sqlite"):
        return f"((julianday('now') - 2440587.5) * 86400.0 - {seconds})"
    return f"clock_timestamp() - interval '{seconds} seconds'"


def hold(installation: Installation, state: str, key: str = "k", seconds: int = 100_000) -> None:
    """Let a message lie aside, written so long ago."""
    ((seq,),) = installation.execute("select coalesce(max(seq), 0) + 1 from outbox_held")
    installation.execute(
        "insert into outbox_held (relay, lane, seq, created_at, id, topic, key, state, blocks)"
        f" values ('default', 'default', {seq}, {ago(installation, seconds)},"
        f" '0190a9f7-0000-7000-8000-{seq:012}', 'orders', '{key}', '{state}', true)"
    )


def test_messages_that_are_dead_and_what_waits_behind_them(either: Installation) -> None:
    for state in ("dead", "blocked", "blocked"):
        hold(either, state)

    report = either.doctor()

    assert report.code == 6
    assert list(report.problems) == ["held-dead"]
    found = report.only("held-dead")
    assert found["outcome"] == "failed"
    assert "relay default: 1 message is dead, the oldest" in found["found"]
    assert "2 messages are blocked behind held ones" in found["found"]
    assert "outbox-relay held list --name default --state dead" in found["advice"]


def test_a_message_that_has_been_tried_for_long(either: Installation) -> None:
    hold(either, "retrying", "a", seconds=60)
    assert either.doctor().problems == {}
    either.execute("delete from outbox_held")
    hold(either, "retrying", "b")
    hold(either, "retrying", "a", seconds=60)

    report = either.doctor("--strict")

    assert report.code == 6
    found = report.only("held-retried")
    assert found["outcome"] == "warning"
    assert (
        "2 messages are retrying, the oldest written 28 h ago, and 2 keys are stopped"
        in (found["found"])
    )


def test_messages_that_should_have_left_long_ago(either: Installation) -> None:
    row = "insert into outbox_scheduled (topic, payload, due_at) values ('orders', {}, {})"
    body = "cast('x' as blob)" if either.url.startswith("sqlite") else "'x'"
    either.execute(row.format(body, ago(either, -600)))
    assert either.doctor().problems == {}
    either.execute(row.format(body, ago(either, 600)))

    report = either.doctor()

    assert report.code == 6
    assert "was due 10 min ago" in report.only("schedule-overdue")["found"]
    assert "outbox-relay run" in report.only("schedule-overdue")["advice"]


def test_a_pause_that_nobody_lifted(either: Installation) -> None:
    row = "insert into outbox_pause (relay, topic, at, actor, reason) values ({}, 'ada', {})"
    either.execute(row.format(f"'default', null, {ago(either, 60)}", "null"))
    assert either.doctor("--strict").problems == {}
    either.execute(row.format(f"null, 'orders', {ago(either, 200_000)}", "'upgrade'"))

    report = either.doctor("--strict")

    assert report.code == 6
    found = report.only("pauses-forgotten")
    assert "topic orders has been paused for 2 days by ada (upgrade)" in found["found"]
    assert found["advice"] == "outbox-relay resume --topic orders"


def test_a_rule_of_retries_that_is_never_used(on_sqlite: Installation, tmp_path: Path) -> None:
    path = tmp_path / "outbox.toml"
    path.write_text('[retry.topics."*"]\nmax_attempts = 3\n[retry.topics."payments.*"]\n')

    report = on_sqlite.doctor("--config", str(path), "--strict")

    assert report.code == 6
    assert '[retry.topics."payments.*"] is never used' in report.only("retry-rules")["found"]


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        (RetryPolicy(), None),
        (RetryPolicy(max_age_s=60.0), None),  # nobody asked for the default's ten attempts
        (RetryPolicy(max_attempts=None), None),
        (RetryPolicy(max_attempts=50, max_age_s=60.0), "attempt 50 is never made"),
        (RetryPolicy(max_attempts=20, max_age_s=86_400.0), None),
        (RetryPolicy(max_attempts=10**9), "comes up to"),
        (RetryPolicy("fixed", first_s=86_400.0, max_attempts=9), "comes up to 8 days"),
    ],
)
def test_limits_that_never_come(policy: RetryPolicy, problem: str | None) -> None:
    found = [verdict.found for verdict in reachable(RetryRules(policy))]
    assert [problem in each for each in found if problem] == ([True] if problem else [])
    assert bool(found) == (problem is not None)


@pytest.mark.parametrize(
    ("patterns", "shadowed"),
    [
        (["payments.*", "*"], []),
        (["*", "payments.*"], [("payments.*", "*")]),
        (["?", "*"], []),
        (["a*", "b*", "ab?"], [("ab?", "a*")]),
        (["*", "payments"], []),  # a name wins over a pattern
        (["a*", "[ab]c"], []),
    ],
)
def test_patterns_that_an_earlier_one_covers(
    patterns: list[str], shadowed: list[tuple[str, str]]
) -> None:
    rules = RetryRules(topics=tuple((pattern, RetryPolicy()) for pattern in patterns))
    assert rules.shadowed() == shadowed
