"""A relay process, messages for it that are numbered by key, and what became of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from outbox.database import DatabaseUrl
from outbox.migrations import migrate
from outbox.names import Names
from outbox.store.opening import open_store
from tests.acceptance.command import Commands, Running
from tests.acceptance.topic_check import Findings, Occurrence, examine
from tests.servers.kafka_topics import QUIET, KafkaServer
from tests.verify.world import compared
from tests.waiting import wait_until

KEYS = 7
PAUSE_OF_FLOW = 0.01  # seconds
HOLDS = "holds the lane, epoch"
STANDBY = "on standby"

_WRITE: LiteralString = """
    with drawn as (update counter set number = number + %(each)s returning key, number)
    insert into outbox_message (topic, key, payload)
    select %(topic)s, key, convert_to((number - %(each)s + i)::text || %(padding)s, 'UTF8')
      from drawn, generate_series(1, %(each)s) as i order by i, key"""


@dataclass
class Scene:
    """A log, a broker, a topic, and how many messages of each key were committed."""

    url: str
    kafka: KafkaServer
    commands: Commands
    topic: str
    started: list[Running] = field(default_factory=list)

    def relay(self, *arguments: str, **variables: str) -> Running:
        """Start a relay; it is killed at the end of its `with`, or of the test."""
        self.started.append(self.commands.start("run", *arguments, **variables))
        return self.started[-1]

    def holder(self, *arguments: str) -> Running:
        """Start a relay and wait until it has the lane."""
        running = self.relay(*arguments)
        running.says(HOLDS)
        return running

    # Writing

    def write(self, each: int = 1, padding: int = 0) -> None:
        """Commit the next `each` messages of every key, in plain SQL."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            self._write(connection, each, padding)

    def _write(self, connection: psycopg.Connection, each: int, padding: int = 0) -> None:
        values = {"each": each, "topic": self.topic, "padding": " " * padding}
        connection.execute(_WRITE, values)

    @contextmanager
    def flow(self) -> Iterator[None]:
        """Keep writing, a few hundred messages a second, whatever becomes of the database."""
        stop = threading.Event()
        thread = threading.Thread(target=self._flow, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _flow(self, stop: threading.Event) -> None:
        while not stop.wait(PAUSE_OF_FLOW):
            try:
                with psycopg.connect(self.url, autocommit=True) as connection:
                    while not stop.wait(PAUSE_OF_FLOW):
                        self._write(connection, 1)
                        self._take_back(connection)
            except psycopg.OperationalError:
                continue  # the database is away; go on when it is back

    def _take_back(self, connection: psycopg.Connection) -> None:
        """Write a message that is rolled back: nobody may see number 0."""
        with connection.transaction(force_rollback=True):
            connection.execute(
                """insert into outbox_message (topic, key, payload)
                   select %s, key, '0' from counter""",
                (self.topic,),
            )

    def committed(self) -> dict[str, int]:
        """Return the last number of each key."""
        return dict(self.query("select key, number from counter"))

    def query(self, sql: LiteralString, **values: object) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(sql, values)
            return cursor.fetchall() if cursor.description is not None else []

    # What became of it

    def wait_until_delivered(self, timeout: float = 60.0) -> None:
        """Wait until all that is committed now is acknowledged and saved."""
        with closing(open_store(DatabaseUrl.parse(self.url), Names())) as store:
            store.connect()
            horizon = store.horizon()
            try:
                wait_until(
                    lambda: store.delivered("default", horizon),
                    what="the delivery of what is committed",
                    timeout=timeout,
                )
            except AssertionError as late:
                said = "".join(line for running in self.started for line in running.lines[-20:])
                raise AssertionError(f"{late}; the relays said last:\n{said}") from None

    def topic_now(self) -> list[Occurrence]:
        """Return what the topic holds."""
        return [
            Occurrence(
                message.partition() or 0,
                (message.key() or b"").decode(),
                int(message.value() or b"0"),
            )
            for message in self.kafka.read(self.topic)
        ]

    def verdict(self) -> Findings:
        """Compare the topic with what is committed, by the numbers, and as `verify` does."""
        findings = examine(self.topic_now(), self.committed())
        url = DatabaseUrl.parse(self.url)
        (judged,) = compared(url, self.kafka, relay="default", topics=(self.topic,)).topics
        agree = {
            "again": judged.again == findings.repeats,
            "unknown": bool(judged.unknown) == bool(findings.phantoms),
            "order": bool(judged.out_of_order) == bool(findings.reordered),
            "position": not judged.misplaced,
            # What is not saved yet, or held, is for the numbers alone to tell.
            "missing": bool(judged.waiting or judged.held) or judged.missing == findings.lost,
        }
        assert all(agree.values()), (agree, judged, findings)
        return findings


@contextmanager
def scene(url: str, kafka: KafkaServer, directory: Path, topic: str) -> Iterator[Scene]:
    """Make the tables in an empty database; at the end kill the relays that still run."""
    migrate(url)
    commands = Commands(directory, url)
    commands.variables["OUTBOX_KAFKA_BOOTSTRAP_SERVERS"] = kafka.bootstrap_servers
    made = Scene(url, kafka, commands, topic)
    made.query("create table counter (key text primary key, number bigint not null)")
    made.query("insert into counter select 'k' || i, 0 from generate_series(1, %(n)s) i", n=KEYS)
    try:
        yield made
    finally:
        for running in made.started:
            running.__exit__(None, None, None)


def configure(kafka: KafkaServer, topic: str, name: str, value: str) -> None:
    """Change a setting of a topic."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, **QUIET})
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(30)


def said_at(running: Running, words: str) -> datetime:
    """Return when a relay wrote the first line with these words."""
    line = next(line for line in running.lines if words in line)
    return datetime.fromisoformat(line.split()[0])


def warnings(running: Running) -> list[str]:
    """Return the warnings and errors in a relay's log."""
    return [line for line in running.lines if line.split()[1:2] in (["warning"], ["error"])]


def wait_until_planned(scene: Scene) -> None:
    """Wait until all that is committed belongs to a plan, so that it is sent now."""
    wait_until(
        lambda: (
            not scene.query(
                """select from outbox_message
                where not pg_visible_in_snapshot(
                    xid, (select target from outbox_plan order by plan_no desc limit 1)) limit 1"""
            )
        ),
        what="a plan of all messages",
    )
