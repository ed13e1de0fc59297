"""The management commands: those of outbox-relay, with Django's settings."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from django.test import override_settings

from outbox.cli.app import COMMANDS
from outbox.config.host import check_host
from outbox.database import DatabaseUrl
from outbox.django import add
from outbox.django.hosting import database_url, host_settings
from outbox.django.wording import WORDED
from outbox.errors import ConfigurationError
from tests.django.suite.shop.models import Order
from tests.servers.kafka_topics import KafkaServer

committing = pytest.mark.django_db(transaction=True, databases=["default", "other"])


def call(*arguments: str, **options: Any) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out, **options)
    return out.getvalue()


def as_process(*arguments: str, **outbox: Any) -> subprocess.CompletedProcess[str]:
    """Run manage.py on the databases of the tests."""
    databases = json.loads(os.environ["OUTBOX_SUITE_DATABASES"])
    for alias, given in databases.items():
        given["NAME"] = connections[alias].settings_dict["NAME"]
    ours = json.loads(os.environ.get("OUTBOX_SUITE_OUTBOX", "{}")) | outbox
    return subprocess.run(
        [sys.executable, str(Path(__file__).parent / "manage.py"), *arguments],
        env={
            **os.environ,
            "OUTBOX_SUITE_DATABASES": json.dumps(databases),
            "OUTBOX_SUITE_OUTBOX": json.dumps(ours),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )


def write(using: str = "default", topic: str = "orders") -> None:
    with transaction.atomic(using=using):
        add(topic, {"order": 1}, key=1, using=using)


@committing
def test_status_tells_of_the_database_that_is_named() -> None:
    write("other")

    default = json.loads(call("outbox_status", "--json"))
    other = json.loads(call("outbox_status", "--json", "--database", "other"))

    assert default["relays"][0]["lag_messages"] == 0
    assert other["relays"][0]["lag_messages"] == 1
    again = json.loads(call("outbox", "status", "--json", database="other"))
    assert again["relays"][0]["lag_messages"] == 1


@committing
def test_advice_names_the_commands_of_django(capfd: pytest.CaptureFixture[str]) -> None:
    write("other")
    call("outbox_status", database="other")
    said = capfd.readouterr().err
    assert "start `manage.py outbox_relay --database=other --name default`" in said
    assert "`manage.py outbox --database=other relays forget default`" in said


def test_every_command_has_its_words_here() -> None:
    assert set(WORDED) == set(COMMANDS)


def test_missing_tables_are_made_by_djangos_migrations(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    elsewhere = f"sqlite:///{tmp_path}/none.db"
    with pytest.raises(SystemExit) as ended:
        call("outbox_status", "--database-url", elsewhere)
    assert ended.value.code == 5
    assert "run `manage.py migrate outbox_relay`" in capfd.readouterr().err


@committing
def test_the_exit_code_is_that_of_the_command(capfd: pytest.CaptureFixture[str]) -> None:
    write()

    with pytest.raises(SystemExit) as ended:
        call("outbox_status", "--fail-if-lag", "0")

    assert ended.value.code == 6
    assert "manage.py outbox" not in capfd.readouterr().out


@pytest.mark.parametrize("name", ["relay", "status", "doctor", "migrate"])
def test_the_help_is_that_of_the_command_with_djangos_options(name: str) -> None:
    shown = call(f"outbox_{name}", "--help")

    assert f"outbox_{name} [OPTIONS]" in shown
    assert "--connect-timeout" in shown
    assert "--database ALIAS" in shown


@committing
def test_the_tables_can_be_checked() -> None:
    err = io.StringIO()
    call("outbox_migrate", "--check", stderr=err)

    assert "as they should be" in err.getvalue()


@committing
def test_the_doctor_examines_the_database() -> None:
    assert json.loads(call("outbox_doctor", "--json"))["schema"] == "outbox.doctor/1"


def test_an_unknown_alias_is_refused() -> None:
    with pytest.raises(CommandError, match="DATABASES has only 'default'") as refused:
        call("outbox_status", "--database", "nope")

    assert refused.value.returncode == 78


def test_a_mistake_in_the_settings_stops_a_command_before_it_begins() -> None:
    with (
        override_settings(OUTBOX={"TABEL_PREFIX": ""}),
        pytest.raises(CommandError, match=r"E002.*\n.*'TABLE_PREFIX'"),
    ):
        call("outbox_status", skip_checks=False)


def test_a_setting_is_shown_with_its_source() -> None:
    outbox = {"RELAY": {"LEASE": 12}, "KAFKA": {"sasl.password": "hush"}}
    with override_settings(OUTBOX=outbox):
        shown = call("outbox", "config", "show", "--json")

    settings = json.loads(shown)["settings"]
    assert settings["lease"] == {"value": 12.0, "source": "Django settings"}
    assert settings["kafka.sasl.password"] == {"value": "***", "source": "Django settings"}
    assert settings["database_url"]["source"] == "Django settings"


def test_a_flag_counts_more_than_the_settings() -> None:
    with override_settings(OUTBOX={"TABLE_PREFIX": "a_"}):
        shown = call("outbox", "config", "show", "--json", "--table-prefix", "b_")

    assert json.loads(shown)["settings"]["table_prefix"]["value"] == "b_"


# As processes


@committing
def test_a_process_speaks_on_the_right_streams_and_ends_with_the_code() -> None:
    write()

    status = as_process("outbox_status", "--json", "--fail-if-lag", "0")
    usage = as_process("outbox_status", "--no-such-option")

    assert (status.returncode, usage.returncode) == (6, 2)
    assert json.loads(status.stdout)["relays"][0]["lag_messages"] == 1
    assert "Usage: manage.py outbox_status" in usage.stderr


@committing
def test_the_relay_delivers_what_was_committed(kafka: KafkaServer) -> None:
    topic = kafka.create_topic(partitions=1)
    write(topic=topic)

    properties = {"bootstrap.servers": kafka.bootstrap_servers}
    done = as_process("outbox_relay", "--drain", KAFKA=properties)

    assert done.returncode == 0, done.stderr
    (message,) = kafka.read(topic)
    assert (message.key(), message.value()) == (b"1", b'{"order":1}')
    assert json.loads(call("outbox_status", "--json"))["relays"][0]["lag_messages"] == 0


@committing
def test_a_consumer_gives_each_message_to_a_function_once(kafka: KafkaServer) -> None:
    # Given a message that was delivered twice
    topic = kafka.create_topic(partitions=1)
    properties = {"bootstrap.servers": kafka.bootstrap_servers}
    producer = Producer(properties)
    for _ in range(2):
        producer.produce(topic, b"{}", headers={"id": b"m-1"})
    producer.flush()

    # When it is consumed until nothing more comes
    handler = "tests.django.suite.shop.billing.write_order"
    options = ("--topic", topic, "--consumer", f"of-{topic}", "--until-idle", "1")
    done = as_process("outbox_consume", handler, *options, KAFKA=properties)

    # Then it took effect once
    assert done.returncode == 0, done.stderr
    assert list(Order.objects.values_list("customer", flat=True)) == ["m-1"]


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        ("no.such.function", "No module named 'no'"),
        ("os.path", "must be a function"),
        ("tests.django.suite.shop.billing.asynchronous", "coroutine function"),
    ],
)
def test_a_handler_that_is_none_is_refused_by_name(handler: str, reason: str) -> None:
    with pytest.raises(CommandError, match=f"{handler}.*{reason}"):
        call("outbox_consume", handler, "--topic", "orders", "--consumer", "billing")


def test_a_consumer_without_a_broker_says_where_to_name_one() -> None:
    handler = "tests.django.suite.shop.billing.write_order"
    with (
        override_settings(OUTBOX={}),
        pytest.raises(CommandError, match=r"no broker.*OUTBOX\['KAFKA'\]") as refused,
    ):
        call("outbox_consume", handler, "--topic", "orders", "--consumer", "billing")

    assert refused.value.returncode == 78


# Where the database is


def libpq(**settings: Any) -> dict[str, str]:
    connection = connections["default"]
    before = dict(connection.settings_dict)
    vendor = connection.vendor
    connection.settings_dict.update(settings)
    connection.vendor = "postgresql"
    try:
        return dict(DatabaseUrl.parse(database_url("default")).parameters)
    finally:
        connection.settings_dict.clear()
        connection.settings_dict.update(before)
        connection.vendor = vendor


def test_djangos_settings_become_those_of_libpq() -> None:
    assert libpq(
        NAME="shop",
        USER="o'brien",
        PASSWORD="p @\\ss",
        HOST="/run/postgresql",
        PORT=5433,
        OPTIONS={"sslmode": "require", "pool": {"min_size": 2}, "isolation_level": 3},
    ) == {
        "dbname": "shop",
        "user": "o'brien",
        "password": "p @\\ss",
        "host": "/run/postgresql",
        "port": "5433",
        "sslmode": "require",
    }


def test_a_service_and_a_role_are_kept() -> None:
    given = {"service": "shop", "passfile": ".pgpass", "assume_role": "app", "options": "-c a=b"}
    assert libpq(NAME="", USER="", PASSWORD="", HOST="", PORT="", OPTIONS=given) == {
        "service": "shop",
        "passfile": ".pgpass",
        "options": "-c a=b -c role=app",
    }


@pytest.mark.parametrize("name", [":memory:", "file:memorydb_default?mode=memory&cache=shared"])
def test_a_sqlite_database_in_memory_is_nobody_elses(name: str) -> None:
    connection = connections["default"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(connection.settings_dict, "NAME", name)
        patch.setattr(connection, "vendor", "sqlite")
        with pytest.raises(ConfigurationError, match="in memory"):
            database_url("default")


def test_the_commands_know_every_setting_they_are_given() -> None:
    check_host(host_settings("default"))
