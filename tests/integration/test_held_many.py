"""Tens of thousands of held messages, and an operator's one command for them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from outbox.cli.app import run
from outbox.migrations import migrate

pytestmark = [pytest.mark.postgresql]

MANY = 20_000
KEYS = 2_000

#: A relay waits no longer than this for what an operator does, in seconds: a part of a lease.
SHORT = 2.0


@pytest.fixture
def held(postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a database with many held messages: of each key the first is dead, the rest blocked."""
    migrate(postgresql_url)
    monkeypatch.setenv("OUTBOX_DATABASE_URL", postgresql_url)
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute(
            """insert into outbox_held (relay, lane, seq, created_at, id, topic, key, payload,
                                        state, blocks)
               select 'default', 'default', i, now(), gen_random_uuid(), 'orders',
                      'k' || i %% %(keys)s, 'x',
                      case when i <= %(keys)s then 'dead' else 'blocked' end, true
                 from generate_series(1, %(many)s) as i""",
            {"keys": KEYS, "many": MANY},
        )
    return postgresql_url


@contextmanager
def relay_at_work(url: str) -> Iterator[list[float]]:
    """Move the cursor again and again, as a relay does; give how long each time took."""
    stop, took = threading.Event(), list[float]()

    def work() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while not stop.is_set():
                begun = time.monotonic()
                connection.execute("update outbox_cursor set moved_at = clock_timestamp()")
                took.append(time.monotonic() - begun)
                stop.wait(0.005)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield took
    finally:
        stop.set()
        thread.join()


def count(url: str, state: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "select count(*) from outbox_held where state = %s", (state,)
        ).fetchone()
    assert row is not None
    return int(row[0])


def done(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    assert run(["held", *arguments, "--all-matching", "--yes", "--json"]) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out)["changed"], captured.err


def test_many_are_requeued_and_discarded_without_a_relay_that_waits(
    held: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # When the dead ones are requeued, and then everything is discarded, while a relay works
    with relay_at_work(held) as took:
        requeued, _ = done(capsys, "requeue", "--state", "dead")
        assert (requeued, count(held, "retrying")) == (KEYS, KEYS)
        discarded, said = done(capsys, "discard")
    # Then all of them are
    assert (discarded, count(held, "blocked"), count(held, "retrying")) == (MANY, 0, 0)
    # And it was told how far it was, and the relay was never in the way for long
    assert said.splitlines()[:2] == [f"5000 of {MANY}", f"10000 of {MANY}"]
    assert len(took) > MANY / 500 / 4
    assert max(took) < SHORT
    # And the audit knows each of them
    with psycopg.connect(held) as connection:
        row = connection.execute(
            """select count(distinct removed), max(jsonb_array_length(what -> 'seqs'))
                 from outbox_audit
                cross join jsonb_array_elements_text(what -> 'ids') as e (removed)
                where command = 'held discard'"""
        ).fetchone()
    assert row == (MANY, 500)
