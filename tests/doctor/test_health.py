"""A healthy installation has no findings; what the doctor does leaves no trace."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from outbox.doctor.check import GROUPS
from outbox.doctor.registry import CHECKS
from tests.doctor.installation import Installation
from tests.servers.kafka import KafkaCluster

REPLICATED = [[1, 2, 3], [2, 3, 1]]


@pytest.mark.postgresql
@pytest.mark.kafka
def test_a_healthy_installation_shows_no_findings(
    whole: Installation, sick_kafka: KafkaCluster
) -> None:
    # Given tables, roles with their rights, a topic with replicas, and a relay that has delivered
    topic = sick_kafka.create_topic(replica_assignment=REPLICATED, min_insync_replicas="2")
    whole.execute("drop role if exists healthy_writer", "create role healthy_writer login")
    whole.relay("migrate", "--writer-role", "healthy_writer")
    whole.add(topic)
    assert whole.relay("run", "--drain") == 0

    # When the doctor looks
    report = whole.doctor("--strict", "--older-than", "0", "--writer-role", "healthy_writer")

    # Then nothing is found, and hardly anything is left out
    assert report.problems == {}
    assert report.code == 0
    skipped = [each["check"] for each in report.findings if each["outcome"] == "skipped"]
    assert skipped == ["broker-clock"]


def test_a_healthy_sqlite_file_shows_no_findings(on_sqlite: Installation) -> None:
    report = on_sqlite.doctor("--strict")

    assert report.problems == {}
    assert report.code == 0
    assert {each["check"] for each in report.findings} == {
        check.id for check in CHECKS if check.database != "postgresql"
    }


@pytest.mark.postgresql
@pytest.mark.kafka
def test_the_relays_role_of_least_rights_can_be_the_doctor(
    whole: Installation, sick_kafka: KafkaCluster
) -> None:
    # Given a role that has what a relay needs and no more
    topic = sick_kafka.create_topic(replica_assignment=REPLICATED, min_insync_replicas="2")
    whole.add(topic)
    whole.execute("drop role if exists least", "create role least login")
    whole.relay("migrate", "--relay-role", "least")
    whole.url = whole.url.replace("postgres@", "least@")

    # When it looks
    report = whole.doctor("--strict")

    # Then it sees all but what others do
    assert report.problems == {}
    assert report.outcome("schema") == "ok"
    assert report.outcome("inbox-schema") == "skipped"
    assert report.outcome("long-transactions") == "skipped"
    assert "pg_read_all_stats" in report.only("long-transactions")["advice"]


@pytest.mark.postgresql
@pytest.mark.kafka
def test_it_leaves_everything_as_it_was(whole: Installation, sick_kafka: KafkaCluster) -> None:
    """Not even a topic is made by asking for it, on a broker that makes topics when asked."""
    whole.add("never-created-by-asking")
    before = contents(whole)

    report = whole.doctor()

    assert report.outcome("topics") == "failed"
    assert contents(whole) == before
    assert "never-created-by-asking" not in topics_of(sick_kafka)


def contents(installation: Installation) -> list[object]:
    tables = ("message", "cursor", "plan", "process", "meta")
    rows = [
        installation.execute(f"select xmin::text, t::text from outbox_{t} as t") for t in tables
    ]
    return [*rows, installation.execute("select oid from pg_class order by oid")]


def topics_of(kafka: KafkaCluster) -> set[str]:
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
    return set(admin.list_topics(timeout=10).topics)


@pytest.mark.postgresql
def test_a_table_that_is_locked_is_not_waited_for(installation: Installation) -> None:
    # Given somebody who holds a lock that keeps every reader out
    locker = installation.connect()
    locker.execute("begin")
    locker.execute("lock table outbox_message in access exclusive mode")

    # When the doctor looks
    began = time.monotonic()
    ignored = ("schema", "hot-queries", "sequence-cache", "topics", "log-size")
    report = installation.doctor(*(word for each in ignored for word in ("--ignore", each)))

    # Then it gives up each such question soon, and says so
    assert time.monotonic() - began < 15
    assert "given up" in report.only("sequence-position")["found"]
    assert report.outcome("relay-name") == "ok"
    assert report.code == 0


# The command


def test_a_missing_sqlite_file_is_a_finding(on_sqlite: Installation) -> None:
    on_sqlite.url += ".nowhere"
    report = on_sqlite.doctor()
    assert report.code == 6
    assert "does not exist" in report.only("schema")["found"]


def test_a_file_that_is_no_database_exits_78(on_sqlite: Installation, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database\n" * 100)
    on_sqlite.url = f"sqlite:///{tmp_path}/text.db"
    assert on_sqlite.relay("doctor") == 78


def test_warnings_alone_exit_0_and_strictly_6(on_sqlite: Installation) -> None:
    on_sqlite.execute("pragma journal_mode = delete")

    assert on_sqlite.doctor().code == 0
    assert on_sqlite.doctor("--strict").code == 6
    assert on_sqlite.doctor("--strict", "--ignore", "journal-mode").code == 0


def test_findings_are_lines_on_stdout_and_counts_on_stderr(
    on_sqlite: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    on_sqlite.execute("delete from outbox_cursor")
    capsys.readouterr()

    assert on_sqlite.relay("doctor") == 6

    said = capsys.readouterr()
    (line,) = [line for line in said.out.splitlines() if "relay-name:" in line]
    assert line.startswith("  failed  relay-name: there is no relay called 'default'")
    assert "-> outbox-relay relays create default" in line
    assert [line for line in said.out.splitlines() if not line.startswith(" ")] == list(GROUPS)
    assert said.err.startswith("1 failed, 0 warning")


def test_a_database_that_is_away_exits_3(capsys: pytest.CaptureFixture[str]) -> None:
    away = Installation("postgresql://127.0.0.1:1/nowhere", capsys)
    assert away.relay("doctor", "--connect-timeout", "0.3") == 3


def test_without_a_database_it_exits_78(capsys: pytest.CaptureFixture[str]) -> None:
    from outbox.cli.app import run

    assert run(["doctor"]) == 78
    assert "no database: give --database-url" in capsys.readouterr().err


def test_an_unknown_check_cannot_be_ignored(on_sqlite: Installation) -> None:
    assert on_sqlite.relay("doctor", "--ignore", "nonsense") == 2


def test_all_checks_can_be_listed_without_a_database(capsys: pytest.CaptureFixture[str]) -> None:
    from outbox.cli.app import run

    assert run(["doctor", "--list", "--json"]) == 0

    listed = json.loads(capsys.readouterr().out)["checks"]
    assert [each["id"] for each in listed] == [check.id for check in CHECKS]
    assert all(each["looks_at"] and each["advice"] for each in listed)
    assert len({each["id"] for each in listed}) == len(CHECKS)


def test_without_a_broker_its_group_says_how_to_give_one(on_sqlite: Installation) -> None:
    report = on_sqlite.doctor()

    of_broker = [each for each in report.findings if each["group"] == "broker"]
    assert {each["outcome"] for each in of_broker} == {"skipped"}
    assert all("-X bootstrap.servers=HOST:PORT" in each["advice"] for each in of_broker)


@pytest.mark.postgresql
def test_a_database_that_goes_away_meanwhile_is_said_once(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a session that is ended while the doctor looks
    from outbox.store.postgresql.diagnosis import PostgreSQLDiagnosis

    def end(diagnosis: PostgreSQLDiagnosis) -> None:
        pid = diagnosis.session.connection.info.backend_pid
        installation.execute(f"select pg_terminate_backend({pid})")
        with diagnosis._looking():
            pass

    monkeypatch.setattr(PostgreSQLDiagnosis, "slots", end)

    # When, Then
    report = installation.doctor()
    assert report.code == 6
    assert list(report.problems) == ["replication-slots"]
    assert report.only("relay-name")["found"] == "the database is away (see replication-slots)"


def test_a_check_that_breaks_hides_no_other(
    on_sqlite: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    from outbox.store.sqlite_diagnosis import SQLiteDiagnosis

    def broken(_: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(SQLiteDiagnosis, "sequence", broken)

    report = on_sqlite.doctor()

    assert "KeyError: 'surprise'" in report.only("sequence-position")["found"]
    assert report.outcome("relay-served") == "ok"
