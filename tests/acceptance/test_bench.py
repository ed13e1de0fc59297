"""`outbox-relay bench` on real servers: what it tells, and that it leaves nothing behind.

No test looks at a time.
"""

from __future__ import annotations

import itertools
import json
import secrets
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString
from urllib.parse import urlsplit, urlunsplit

import psycopg
import psycopg.sql
import pytest
from confluent_kafka.admin import AdminClient

from outbox.publishers.mock_kafka import MockKafka
from tests.acceptance.command import Commands, Done, Running
from tests.servers.kafka_topics import KafkaServer
from tests.waiting import wait_until

TINY = ("--messages", "200", "--repetitions", "1", "--seconds", "0.2", "--rate", "50")

#: Longer than any test waits.
ENDLESS = ("--only", "latency", "--seconds", "3000", "--rate", "1")

BEGUN = "measuring in the schema outbox_bench_"

MARK: LiteralString = "outbox-relay bench: "


@dataclass
class Bench:
    """The command, and a look at what is on its servers."""

    url: str
    kafka: KafkaServer
    commands: Commands

    def __call__(self, *arguments: str, **variables: str) -> Done:
        given = Commands(self.commands.directory)
        given.variables = {**self.commands.variables, **variables}
        return given("bench", *arguments)

    def start(self, *arguments: str) -> Running:
        running = self.commands.start("bench", *arguments)
        try:
            running.says(BEGUN)
        except BaseException:
            running.__exit__(None, None, None)
            raise
        return running

    def schemas(self) -> set[str]:
        with psycopg.connect(self.url) as connection:
            query = "select nspname from pg_namespace where nspname !~ '^(pg_|information_schema)'"
            return {name for (name,) in connection.execute(query)}

    def topics_and_groups(self) -> set[str]:
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap_servers})
        groups = {each.group_id for each in admin.list_consumer_groups().result(30).valid}
        topics = set(admin.list_topics(timeout=30).topics)
        return groups | {name for name in topics if not name.startswith("__")}  # Kafka's own

    def everything(self) -> tuple[set[str], set[str]]:
        return self.schemas(), self.topics_and_groups()

    def left_since(self, before: tuple[set[str], set[str]]) -> tuple[set[str], set[str]]:
        """Return what there was not. Topics of other tests may still be on their way out."""
        return self.schemas() - before[0], self.topics_and_groups() - before[1]

    def execute(self, statement: LiteralString | psycopg.sql.Composable) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)


@pytest.fixture
def bench(postgresql_url: str, kafka: KafkaServer, tmp_path: Path) -> Bench:
    commands = Commands(tmp_path, postgresql_url)
    commands.variables["OUTBOX_KAFKA_BOOTSTRAP_SERVERS"] = kafka.bootstrap_servers
    return Bench(postgresql_url, kafka, commands)


# What it tells


def test_json_tells_conditions_and_ratios_of_things_measured_in_turn(bench: Bench) -> None:
    # When
    before = bench.everything()
    done = bench("--json", *TINY, "--partitions", "3")

    # Then
    assert done.code == 0, done.err
    assert done.json["schema"] == "outbox.bench/1"
    assert done.json["conditions"].keys() >= {
        *("outbox_relay", "python", "librdkafka", "cores", "postgresql", "fsync"),
        *("synchronous_commit", "acks", "partitions", "replicas", "round_trip_ms"),
    }
    assert done.json["conditions"]["partitions"] == 3
    rows = done.json["rows"]
    assert [row["what"] for row in rows] == [
        "drain, at-least-once",
        "latency p50 at 50/s",
        "latency p99 at 50/s",
        "add, psycopg",
        "add, psycopg, one cursor",
        "add_all of 100, psycopg",
        "add, Session",
    ]
    for repetition in itertools.chain.from_iterable(row["repetitions"] for row in rows):
        assert repetition["ours"] > 0
        assert repetition["ratio"] == pytest.approx(repetition["ours"] / repetition["baseline"])
    assert all(row["than"] and row["unit"] and row["ratio"] > 0 for row in rows)
    # And nothing is left
    assert bench.left_since(before) == (set(), set())


def test_people_get_a_table_and_what_each_is_measured_against(bench: Bench) -> None:
    done = bench("--only", "add", *TINY)
    assert done.code == 0, done.err
    assert "synchronous_commit: " in done.out
    assert [line.split("  ")[0] for line in done.out.splitlines() if "µs/message" in line] == [
        "add, psycopg",
        "add, psycopg, one cursor",
        "add_all of 100, psycopg",
        "add, Session",
    ]
    assert "psycopg's connection.execute of the INSERT of the same row, in the same" in done.out
    assert BEGUN in done.err
    assert BEGUN not in done.out


def test_exactly_once_leaves_no_group_in_which_kafka_keeps_the_position(bench: Bench) -> None:
    before = bench.everything()
    done = bench("--json", "--only", "drain", "--delivery", "exactly-once", *TINY)
    assert done.code == 0, done.err
    assert [row["what"] for row in done.json["rows"]] == ["drain, exactly-once"]
    assert bench.left_since(before) == (set(), set())


def test_tables_of_the_application_are_not_touched(bench: Bench) -> None:
    # Given
    assert bench.commands("migrate").code == 0
    bench.execute("insert into outbox_message (topic, key, payload) values ('mine', 'a', 'b')")

    # When
    assert bench("--only", "drain", *TINY).code == 0

    # Then
    status = bench.commands("status", "--json").json
    assert [relay["lag_messages"] for relay in status["relays"]] == [1]
    assert status["relays"][0]["cluster_id"] is None


# What is left when it does not end well


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_told_to_stop_it_removes_what_it_made(bench: Bench, number: int) -> None:
    # Given
    before = bench.everything()
    with bench.start(*ENDLESS) as running:
        assert bench.schemas() > before[0]
        running.says("latency, with the relay")

        # When
        running.signal(number)

        # Then
        assert running.wait() == 1
        assert any("aborted" in line for line in running.lines)
    assert bench.left_since(before) == (set(), set())


@pytest.fixture
def killed(bench: Bench) -> tuple[set[str], set[str]]:
    """Give what there was before a run that was killed."""
    before = bench.everything()
    with bench.start(*ENDLESS) as running:
        running.says("latency, with the relay")
        running.signal(signal.SIGKILL)
        running.wait()
    return before


def test_what_a_killed_run_left_the_next_one_removes(
    bench: Bench, killed: tuple[set[str], set[str]]
) -> None:
    # Given what is left, and schemas that only look alike
    assert bench.schemas() > killed[0]
    assert bench.topics_and_groups() > killed[1]
    bench.execute("create schema outbox_bench_000000000000")
    bench.execute("create schema mine; comment on schema mine is 'outbox-relay bench: to be read'")

    # When
    done = bench("--only", "drain", *TINY)

    # Then
    assert done.code == 0, done.err
    assert "removed what an earlier run left: outbox_bench_" in done.err
    alike = {"outbox_bench_000000000000", "mine"}
    wait_until(
        lambda: bench.left_since(killed) == (alike - killed[0], set()), what="nothing to be left"
    )


def test_what_belongs_to_a_run_that_goes_on_stays(bench: Bench) -> None:
    # Given
    with bench.start(*ENDLESS) as running:
        before = bench.everything()

        # When
        done = bench("--only", "drain", *TINY)

        # Then
        assert done.code == 0, done.err
        assert "earlier run" not in done.err
        assert bench.left_since(before) == (set(), set())
        assert bench.schemas() == before[0]
        running.signal(signal.SIGTERM)
        running.wait()


def test_what_a_run_left_on_another_cluster_is_told_and_stays(bench: Bench) -> None:
    # Given
    mark = json.dumps({"owner": "?", "session": "?", "cluster": "another", "topic": "lost"})
    bench.execute("create schema left_over")
    comment = psycopg.sql.SQL("comment on schema left_over is {}")
    bench.execute(comment.format(psycopg.sql.Literal(MARK + mark)))

    # When
    done = bench("--only", "drain", *TINY)

    # Then
    assert done.code == 0, done.err
    assert "left the schema left_over, and on another Kafka cluster the topic lost" in done.err
    assert "left_over" in bench.schemas()


# What it refuses


def test_sqlite_is_refused(bench: Bench, tmp_path: Path) -> None:
    done = bench(OUTBOX_DATABASE_URL=f"sqlite:///{tmp_path}/shop.db")
    assert (done.code, done.out) == (78, "")
    assert "bench measures PostgreSQL" in done.err
    assert not (tmp_path / "shop.db").exists()


def test_a_role_that_may_not_create_schemas_is_told_what_to_grant(bench: Bench) -> None:
    # Given
    role = f"bench_{secrets.token_hex(6)}"
    bench.execute(psycopg.sql.SQL("create role {} login").format(psycopg.sql.Identifier(role)))
    parts = urlsplit(bench.url)
    url = urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}"))

    # When
    done = bench(OUTBOX_DATABASE_URL=url)

    # Then
    bench.execute(psycopg.sql.SQL("drop role {}").format(psycopg.sql.Identifier(role)))
    assert (done.code, done.out) == (78, "")
    assert "grant create on database" in done.err
    assert "Traceback" not in done.err


def test_a_mock_cluster_is_refused(bench: Bench) -> None:
    before = bench.schemas()
    with MockKafka() as mock:
        done = bench(OUTBOX_KAFKA_BOOTSTRAP_SERVERS=mock.bootstrap_servers)
    assert (done.code, done.out) == (78, "")
    assert "mock cluster" in done.err
    assert bench.schemas() == before


def test_what_librdkafka_does_not_take_is_refused_before_anything_is_made(bench: Bench) -> None:
    done = bench("-X", "linger.minutes=1")
    assert (done.code, done.out) == (78, "")
    assert "linger.minutes" in done.err
    assert BEGUN not in done.err


def test_servers_that_are_away_are_given_up(bench: Bench) -> None:
    away = "127.0.0.1:1"
    no_kafka = bench("--connect-timeout", "1", OUTBOX_KAFKA_BOOTSTRAP_SERVERS=away)
    assert (no_kafka.code, no_kafka.out) == (4, "")
    no_database = bench("--connect-timeout", "1", OUTBOX_DATABASE_URL=f"postgresql://{away}/x")
    assert (no_database.code, no_database.out) == (3, "")
