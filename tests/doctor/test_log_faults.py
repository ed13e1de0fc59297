"""Faults of the log and of relay names, planted and found."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from tests.doctor.installation import Installation
from tests.servers.postgresql import PrivatePostgreSQL
from tests.waiting import wait_until

KINDS = ["on_sqlite", pytest.param("installation", marks=pytest.mark.postgresql)]


@pytest.fixture(params=KINDS)
def either(request: pytest.FixtureRequest) -> Installation:
    """Give the tables on each kind of database."""
    found: Installation = request.getfixturevalue(request.param)
    return found


def past(installation: Installation, seconds: int) -> str:
    """Return SQL of a moment in the past."""
    if installation.url.startswith("sqlite"):
        return f"((julianday('now') - 2440587.5) * 86400.0 - {seconds})"
    return f"clock_timestamp() - interval '{seconds} seconds'"


def written(installation: Installation) -> str:
    """Return what an update of the cursor must set, so that it does not look restored."""
    if installation.url.startswith("sqlite"):
        return ""
    return ", written_by = pg_current_xact_id()"


# The tables


@pytest.mark.postgresql
def test_no_tables(empty: Installation) -> None:
    report = empty.doctor()

    assert report.code == 6
    assert list(report.problems) == ["schema"]
    assert "outbox-relay migrate" in report.only("schema")["advice"]
    assert report.only("sequence-cache")["found"] == "the tables are not there (see schema)"


@pytest.mark.postgresql
def test_an_inbox_alone_is_not_taken_for_a_broken_outbox(empty: Installation) -> None:
    empty.relay("migrate", "--only", "inbox")
    assert empty.doctor().problems == {}


def test_a_table_that_is_missing(either: Installation) -> None:
    either.execute("drop table outbox_process")
    assert "outbox_process" in either.doctor().of("schema")[0]["found"]


@pytest.mark.postgresql
def test_a_default_that_was_changed(installation: Installation) -> None:
    installation.execute("alter table outbox_message alter column created_at set default now()")
    found = installation.doctor().of("schema")[0]
    assert found["outcome"] == "failed"
    assert "created_at" in found["found"]
    assert "migrate --sql" in found["advice"]


@pytest.mark.postgresql
def test_the_tables_are_found_under_another_name(empty: Installation) -> None:
    place = ("--schema", "events", "--table-prefix", "shop_")
    empty.relay("migrate", *place)
    empty.execute("alter sequence events.shop_outbox_message_seq cache 5")

    report = empty.doctor(*place)

    (advice,) = {each["advice"] for each in report.of("sequence-cache")}
    assert 'alter sequence "events"."shop_outbox_message_seq" cache 1' in advice
    assert set(report.problems) == {"sequence-cache", "schema"}  # and nothing else


@pytest.mark.postgresql
@pytest.mark.parametrize("change", ["cache 10", "increment 2", "cycle"])
def test_a_sequence_that_does_not_count_one_by_one(installation: Installation, change: str) -> None:
    installation.execute(f"alter sequence outbox_message_seq {change}")

    report = installation.doctor()

    assert report.outcome("sequence-cache") == "failed"
    assert "alter sequence" in report.only("sequence-cache")["advice"]


def test_a_sequence_that_was_set_back(either: Installation) -> None:
    for _ in range(3):
        either.add()
    if either.url.startswith("sqlite"):
        either.execute("update sqlite_sequence set seq = 1 where name = 'outbox_message'")
    else:
        either.execute("select setval('outbox_message_seq', 1)")

    report = either.doctor()

    assert report.outcome("sequence-position") == "failed"
    assert "below message 3" in report.only("sequence-position")["found"]
    assert "--rebase" in report.only("sequence-position")["advice"]


@pytest.mark.postgresql
@pytest.mark.parametrize(
    ("fault", "query"),
    [
        ("drop index outbox_message_xid_idx", "late"),
        ("alter table outbox_message drop constraint outbox_message_pkey", "fresh"),
    ],
)
def test_a_read_without_its_index(installation: Installation, fault: str, query: str) -> None:
    installation.execute(fault)

    report = installation.doctor()

    assert report.outcome("hot-queries") == "failed"
    assert f"read of {query} messages" in report.only("hot-queries")["found"]


@pytest.mark.postgresql
def test_autovacuum_that_is_off(installation: Installation) -> None:
    installation.execute("alter table outbox_cursor set (autovacuum_enabled = off)")
    with installation.reverted(
        "alter system set autovacuum = off", "alter system reset autovacuum"
    ):
        wait_until(
            lambda: installation.execute("show autovacuum") == [("off",)], what="autovacuum off"
        )
        found = " ".join(each["found"] for each in installation.doctor().of("autovacuum"))

    assert "autovacuum is off" in found
    assert "switched off for table outbox_cursor" in found


@pytest.mark.postgresql
def test_policies_that_hide_messages(installation: Installation) -> None:
    installation.execute("drop role if exists looks", "create role looks login")
    installation.relay("migrate", "--relay-role", "looks")
    installation.execute("alter table outbox_message enable row level security")
    assert installation.doctor().outcome("row-security") == "ok"  # this role is above it

    installation.url = installation.url.replace("postgres@", "looks@")

    assert installation.doctor().outcome("row-security") == "failed"


@pytest.mark.postgresql
def test_a_subscription_into_the_log(
    installation: Installation, sick_postgresql: PrivatePostgreSQL
) -> None:
    # Given a log elsewhere that is published, and a subscription to it
    elsewhere = Installation(sick_postgresql.create_database(), installation.capture)
    elsewhere.relay("migrate")
    elsewhere.execute(
        "create publication everything for all tables with (publish_via_partition_root = true)"
    )
    name = urlsplit(elsewhere.url)
    source = f"host=127.0.0.1 port={name.port} user=postgres dbname={name.path[1:]}"
    installation.execute(
        f"create subscription copied connection '{source}' publication everything"
        " with (create_slot = false, enabled = false, copy_data = false)",
        "alter subscription copied set (slot_name = none)",
    )
    try:
        report = installation.doctor()
    finally:
        installation.execute("drop subscription copied")
        elsewhere.close()
        sick_postgresql.drop_database(name.path[1:])

    assert report.outcome("subscriptions") == "failed"
    assert "subscription copied writes into the log" in report.only("subscriptions")["found"]


@pytest.mark.postgresql
def test_a_large_log(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    from outbox.doctor import log

    installation.add(payload="x" * 1000)
    monkeypatch.setattr(log, "_LARGE_BYTES", 1000)

    assert installation.doctor().outcome("log-size") == "warning"


# Relay names


def test_a_relay_name_that_does_not_exist(either: Installation) -> None:
    report = either.doctor("--name", "misspelt")

    assert report.outcome("relay-name") == "failed"
    assert "relays create misspelt" in report.only("relay-name")["advice"]


@pytest.mark.postgresql
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("update outbox_cursor set moved_at = moved_at", "restored"),
        ("delete from outbox_plan", "no plan"),
        ("update outbox_plan set target = '900000:900000:'", "transactions ahead"),
        ("update outbox_plan set target_floor = 77", "has come to message 77"),
    ],
)
def test_a_cursor_that_does_not_fit(installation: Installation, fault: str, words: str) -> None:
    installation.execute(fault)

    report = installation.doctor()

    assert report.outcome("cursor-origin") == "failed"
    assert words in report.only("cursor-origin")["found"]
    assert "--rebase" in report.only("cursor-origin")["advice"]


def test_a_cursor_ahead_of_a_file(on_sqlite: Installation) -> None:
    on_sqlite.execute("update outbox_cursor set after_seq = 99")
    assert on_sqlite.doctor().outcome("cursor-origin") == "failed"


def test_messages_that_nobody_delivers(either: Installation) -> None:
    either.add(created_at=past(either, 120))

    report = either.doctor()

    assert report.outcome("relay-served") == "failed"
    assert "1 message waits" in report.only("relay-served")["found"]
    assert "outbox-relay run --name default" in report.only("relay-served")["advice"]


def test_messages_that_wait_although_somebody_serves_them(either: Installation) -> None:
    either.add(created_at=past(either, 120))
    lease = past(either, -20)
    either.execute(
        f"update outbox_cursor set owner = 'somebody', lease_until = {lease}{written(either)}"
    )
    assert either.doctor().outcome("relay-served") == "warning"


def test_a_forgotten_relay_name(either: Installation) -> None:
    either.relay("relays", "create", "old", "--from", "latest")
    either.execute(
        f"update outbox_cursor set moved_at = {past(either, 30 * 86_400)}{written(either)}"
        " where relay = 'old'"
    )

    report = either.doctor()

    assert report.outcome("relay-forgotten") == "warning"
    assert "nobody has served relay old for 30 days" in report.only("relay-forgotten")["found"]
    assert "relays forget old" in report.only("relay-forgotten")["advice"]


def test_a_lease_that_was_given_by_another_clock(either: Installation) -> None:
    lease = past(either, -86_400)
    either.execute(
        f"update outbox_cursor set owner = 'somebody', lease_until = {lease}{written(either)}"
    )

    report = either.doctor()

    assert report.outcome("lease-clock") == "warning"
    assert "ends in 24 h" in report.only("lease-clock")["found"]


def test_a_process_of_another_version(either: Installation) -> None:
    either.execute(
        "insert into outbox_process (relay, process, version, state)"
        " values ('default', 'host pid=1', '0.0.1', 'publishing')"
    )
    assert "host pid=1 runs version 0.0.1" in either.doctor().only("relay-versions")["found"]


# Lanes


def test_a_lane_that_nobody_declared(either: Installation) -> None:
    for lane in ("urgent", "urgent", "default", None):
        either.add(lane=f"'{lane}'" if lane else "null")

    finding = either.doctor().only("lanes-declared")

    assert finding["outcome"] == "warning"
    assert "2 messages of the latest name lane 'urgent'" in finding["found"]
    assert "outbox-relay lanes declare urgent" in finding["advice"]
    # And once it is declared all is well
    assert either.relay("lanes", "declare", "urgent") == 0
    assert either.doctor().outcome("lanes-declared") == "ok"


def test_a_stream_of_earlier_lanes_that_nobody_serves(either: Installation) -> None:
    assert either.relay("lanes", "declare", "bulk") == 0
    assert either.doctor().outcome("lanes-streams") == "ok"
    assert either.relay("lanes", "remove", "bulk") == 0

    finding = either.doctor().only("lanes-streams")

    assert finding["outcome"] == "warning"
    assert "stream bulk of relay default is none of the present lanes" in finding["found"]
    assert "outbox-relay run --name default" in finding["advice"]


def test_a_stream_without_a_cursor(either: Installation) -> None:
    assert either.relay("lanes", "declare", "bulk") == 0
    either.execute("delete from outbox_cursor where lane = 'bulk'")

    finding = either.doctor().only("lanes-streams")

    assert finding["outcome"] == "failed"
    assert "relay default has no cursor for stream bulk" in finding["found"]
