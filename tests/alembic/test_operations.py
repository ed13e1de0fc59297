"""The operations make, upgrade and drop our tables, and neither adopt nor lose anything."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

import outbox.alembic  # noqa: F401 - op.create_outbox and its like
from outbox.database import DatabaseUrl
from outbox.errors import ConfigurationError
from outbox.migrations import check, migrate
from outbox.names import Names
from outbox.schema import source
from outbox.schema.postgresql import NATIVE
from outbox.schema.source import Step
from outbox.store.lanes import Lane
from outbox.store.opening import open_store
from outbox.store.owner import new_owner
from outbox.writer.outbox import Outbox
from tests.alembic.project import Project, plain, synchronous
from tests.conformance.store_kit import LEASE_S, read_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from outbox.database import Dialect

CREATE, DROP = "op.create_outbox(version=1)", "op.drop_outbox()"


@pytest.fixture
def by_hand(project: Project) -> Project:
    """Given a migration that somebody wrote by hand."""
    project.begin()
    project.revision(CREATE, DROP)
    return project


def write(url: str, lane: str | None = None) -> None:
    """Write a message."""
    engine = create_engine(synchronous(url), poolclass=NullPool)
    with engine.begin() as connection:
        Outbox().add(connection, "orders", {"order": 1}, key="ada", lane=lane)
    engine.dispose()


# Creating


def test_tables_of_our_command_are_recognised(by_hand: Project) -> None:
    migrate(plain(by_hand.url))
    write(by_hand.url)
    by_hand.upgrade()
    assert check(plain(by_hand.url)) == []


def test_half_of_the_tables_is_made_whole(by_hand: Project) -> None:
    migrate(plain(by_hand.url), only="inbox")
    by_hand.upgrade()
    assert check(plain(by_hand.url)) == []


@pytest.mark.parametrize("table", ["outbox_meta", "outbox_message", "inbox_message"])
def test_tables_of_somebody_else_are_not_adopted(by_hand: Project, table: str) -> None:
    # Given a table that has one of our names
    by_hand.run(f"create table {table} (mine integer)")
    # When ours are to be made, then it says whose it is, without a traceback on the command line
    with pytest.raises(CommandError, match=f"{table}, which outbox-relay did not make") as caught:
        by_hand.upgrade()
    assert isinstance(caught.value, ConfigurationError)
    # and nothing was made
    assert by_hand.tables() - {"alembic_version"} == {table}


def test_what_fails_half_way_leaves_nothing(
    by_hand: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given that the last statement of the first step fails
    steps = tuple(source.steps(dialect_of(by_hand)))
    broken = Step(steps[0].name, "outbox", 1, steps[0].template + "\nnonsense;")
    monkeypatch.setattr(source, "_load", lambda _: (broken, *steps[1:]))
    with pytest.raises(Exception, match="nonsense"):
        by_hand.upgrade()
    assert by_hand.tables() <= {"alembic_version"}


def dialect_of(project: Project) -> Dialect:
    """Return which of the two it is."""
    return "sqlite" if project.url.startswith("sqlite") else "postgresql"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("op.create_outbox(version=99)", "version 99 .* has 1 to"),
        ("op.create_outbox(version=0)", "version 0 "),
        ("op.create_outbox(version='1')", "version '1'"),
        ("op.create_outbox(only='both')", "only 'both'"),
        ("op.create_outbox(table_prefix='Shop-')", "table_prefix 'Shop-'"),
        ("op.upgrade_outbox(2, 1)", r"does not go up.*downgrade_outbox\(2, 1\)"),
    ],
)
def test_bad_arguments_are_named(
    new_project: Callable[..., Project], tmp_path: Path, call: str, says: str
) -> None:
    project = new_project(f"sqlite:///{tmp_path}/shop.db").begin()
    project.revision(call)
    with pytest.raises(CommandError, match=says):
        project.upgrade()


def test_sqlite_has_no_schemas(new_project: Callable[..., Project], tmp_path: Path) -> None:
    project = new_project(f"sqlite:///{tmp_path}/shop.db").begin()
    project.revision("op.create_outbox(schema='events')")
    with pytest.raises(CommandError, match="SQLite has no schemas"):
        project.upgrade()


def test_a_connection_that_commits_by_itself_is_refused(
    new_project: Callable[..., Project], postgresql_url: str
) -> None:
    project = new_project(postgresql_url.replace("://", "+psycopg://")).begin()
    project.revision(f"with op.get_context().autocommit_block():\n    {CREATE}")
    with pytest.raises(CommandError, match="commits every statement on its own"):
        project.upgrade()
    assert "outbox_meta" not in project.tables()


def test_a_savepoint_is_refused(new_project: Callable[..., Project], postgresql_url: str) -> None:
    """A cursor written in one has another xmin than its mark, as after dump and restore."""
    project = new_project(postgresql_url.replace("://", "+psycopg://")).begin()
    project.revision(f"with op.get_bind().begin_nested():\n    {CREATE}")
    with pytest.raises(CommandError, match="runs in a savepoint"):
        project.upgrade()


# Upgrading


SECOND = (
    Step(
        "0002_outbox_more",
        "outbox",
        2,
        "alter table outbox_cursor add column more integer not null default 0;\n"
        "update outbox_meta set version = 2;",
    ),
)


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Given, once called, code that has a second version of the outbox, and of it alone."""

    def install() -> None:
        loaded = {name: tuple(source.steps(name)) for name in ("postgresql", "sqlite")}
        monkeypatch.setattr(source, "_load", lambda dialect: (*loaded[dialect], *SECOND))

    return install


def test_a_new_version_is_written_as_an_upgrade(
    project: Project, newer: Callable[[], None]
) -> None:
    # Given tables of the first version
    project.begin("add_tables(metadata)")
    project.autogenerate()
    project.upgrade()
    # When a release with a second one is installed
    newer()
    text = project.autogenerate()
    # Then it is written for the side that it changes, in both directions
    assert "op.upgrade_outbox(1, 2, only='outbox')" in text
    assert "op.downgrade_outbox(2, 1, only='outbox')" in text
    project.upgrade()
    project.check()
    # and back and forth works, since the tables stay as they are on the way down
    project.downgrade("-1")
    project.upgrade()
    project.check()


def test_an_upgrade_that_is_made_already_is_recognised(
    by_hand: Project, newer: Callable[[], None]
) -> None:
    by_hand.upgrade()
    newer()
    by_hand.revision("op.upgrade_outbox(1, 2)")
    migrate(plain(by_hand.url))
    by_hand.upgrade()


def test_an_upgrade_of_nothing_is_refused(project: Project, newer: Callable[[], None]) -> None:
    newer()
    project.begin()
    project.revision("op.upgrade_outbox(1, 2)")
    with pytest.raises(CommandError, match=r"should be at version 1 .* not there"):
        project.upgrade()


def test_a_version_that_older_code_cannot_use_is_not_taken_back(
    by_hand: Project, newer: Callable[[], None]
) -> None:
    by_hand.upgrade()
    newer()
    by_hand.revision("op.upgrade_outbox(1, 2)", "op.downgrade_outbox(2, 1)")
    by_hand.upgrade()
    by_hand.run("update outbox_meta set compatible_from = 2")
    with pytest.raises(CommandError, match="cannot be taken back"):
        by_hand.downgrade("-1")


@pytest.mark.parametrize("printed", [False, True], ids=["online", "printed"])
def test_an_upgrade_keeps_cursors_recognised_as_native(
    new_project: Callable[..., Project],
    postgresql_url: str,
    monkeypatch: pytest.MonkeyPatch,
    printed: bool,
) -> None:
    # Given a cursor of this cluster and one that looks restored
    project = new_project(postgresql_url.replace("://", "+psycopg://")).begin()
    project.revision(CREATE)
    project.upgrade()
    project.run(
        "insert into outbox_cursor (relay, lane, written_by) values ('restored', 'default', '7')"
    )
    # When a migration rewrites their rows
    rewrite = "alter table outbox_cursor alter after_seq type numeric;"
    loaded = source.steps("postgresql")
    step = Step("0002_outbox_rewrite", "outbox", 2, rewrite)
    monkeypatch.setattr(source, "_load", lambda _: (*loaded, step))
    project.revision("op.upgrade_outbox(1, 2)")
    if printed:
        run_script(postgresql_url, project.printed(f"{revisions(project)[0]}:head"))
    else:
        project.upgrade()
    # Then each is still what it was
    native = "select relay from outbox_cursor where " + NATIVE
    with closing(psycopg.connect(postgresql_url)) as connection:
        assert connection.execute(native).fetchall() == [("default",)]


def revisions(project: Project) -> list[str]:
    """Return the revisions, the oldest first."""
    walked = ScriptDirectory.from_config(project.config).walk_revisions()
    return [script.revision for script in walked][::-1]


# Dropping


def test_undelivered_messages_are_not_dropped(by_hand: Project) -> None:
    # Given a message that nobody has sent
    by_hand.upgrade()
    write(by_hand.url)
    # When the tables are to go, then they stay
    with pytest.raises(CommandError, match="1 not delivered yet"):
        by_hand.downgrade()
    assert check(plain(by_hand.url)) == []


def test_delivered_messages_hold_nothing_up(by_hand: Project) -> None:
    by_hand.upgrade()
    write(by_hand.url)
    if dialect_of(by_hand) == "sqlite":
        by_hand.run("update outbox_cursor set after_seq = 1")
    else:
        by_hand.run(
            "update outbox_plan set target = pg_current_snapshot()",
            "update outbox_cursor set after_seq = 1, written_by = pg_current_xact_id()",
        )
    by_hand.downgrade()
    assert by_hand.tables() == {"alembic_version"}


def test_a_second_relay_name_that_is_behind_counts(by_hand: Project) -> None:
    by_hand.upgrade()
    write(by_hand.url)
    by_hand.run(
        "update outbox_cursor set after_seq = 1",
        "insert into outbox_cursor (relay, lane) values ('other', 'default')",
    )
    with pytest.raises(CommandError, match="not delivered yet"):
        by_hand.downgrade()


def deliver(store: Any, stream: str) -> None:
    """Take what a stream has, as a relay does."""
    lease = store.acquire("default", stream, new_owner(), LEASE_S)
    pages = read_all(store.reader(lease))
    store.release(lease, pages[-1].end if pages else lease.position)


@pytest.fixture
def with_lanes(by_hand: Project) -> Iterator[Any]:
    """Give a log whose lanes are `default`, with shards where there can be any, and `urgent`."""
    by_hand.upgrade()
    with closing(open_store(DatabaseUrl.parse(plain(by_hand.url)), Names())) as store:
        store.connect()
        shards = 1 if dialect_of(by_hand) == "sqlite" else 2
        store.change_lanes([Lane("default", shards=shards), Lane("urgent")])
        yield store


def test_what_is_delivered_by_its_lane_waits_for_no_other(
    by_hand: Project, with_lanes: Any
) -> None:
    # Given lanes of which only one has messages, so that the others have not passed these
    for stream in ("default", "urgent", "default:0", "default:1"):
        if stream in {each.name for each in with_lanes.streams("default")}:
            deliver(with_lanes, stream)
    write(by_hand.url)
    with pytest.raises(CommandError, match="1 not delivered yet"):
        by_hand.downgrade()
    # When that one has delivered them
    (busy,) = [each.lane for each in with_lanes.status() if each.lag_messages]
    deliver(with_lanes, busy)
    with_lanes.close()
    # Then nothing is in the way
    by_hand.downgrade()
    assert by_hand.tables() == {"alembic_version"}


def test_what_waits_while_lanes_change_is_not_dropped(by_hand: Project, with_lanes: Any) -> None:
    # Given a message of a lane that was removed before it was delivered
    write(by_hand.url, lane="urgent")
    with_lanes.change_lanes([Lane("default")])
    with_lanes.close()
    with pytest.raises(CommandError, match="1 not delivered yet"):
        by_hand.downgrade()


def test_what_is_held_is_not_dropped(by_hand: Project) -> None:
    by_hand.upgrade()
    by_hand.run(
        "insert into outbox_held (relay, lane, seq, created_at, id, topic, state, blocks) "
        "select relay, lane, 1, moved_at, '018f3f1e-0000-7000-8000-000000000001', 't', 'dead', "
        "1 = 0 from outbox_cursor"
    )
    with pytest.raises(CommandError, match="1 not delivered yet"):
        by_hand.downgrade()


def test_force_drops_everything(project: Project) -> None:
    project.begin()
    project.revision(CREATE, "op.drop_outbox(force=True)")
    project.upgrade()
    write(project.url)
    project.downgrade()
    assert project.tables() == {"alembic_version"}


def test_tables_of_somebody_else_are_not_dropped(project: Project) -> None:
    project.begin()
    project.run("create table outbox_message (mine integer)")
    project.revision("pass", DROP)
    project.upgrade()
    with pytest.raises(CommandError, match="did not make"):
        project.downgrade()
    assert "outbox_message" in project.tables()


def test_dropping_what_is_not_there_is_no_error(project: Project) -> None:
    project.begin()
    project.revision("pass", DROP)
    project.upgrade()
    project.downgrade()


def test_nothing_is_left_behind(new_project: Callable[..., Project], postgresql_url: str) -> None:
    project = new_project(postgresql_url.replace("://", "+psycopg://")).begin()
    project.revision(
        "op.create_outbox(schema='events', table_prefix='shop_')",
        "op.drop_outbox(schema='events', table_prefix='shop_')",
    )
    project.upgrade()
    project.downgrade()
    # Then the schema is empty, so that it can be dropped
    project.run("drop schema events")


# Printed SQL


@pytest.mark.parametrize("names", [Names(), Names("events", "shop_")], ids=["plain", "elsewhere"])
def test_printed_sql_makes_what_the_operation_makes(
    new_project: Callable[..., Project], postgresql_url: str, names: Names
) -> None:
    # Given a migration, printed without a connection
    project = new_project("postgresql+psycopg://nowhere.invalid/x").begin()
    place = f"schema={names.schema!r}, table_prefix={names.prefix!r}"
    project.revision(f"op.create_outbox({place})", f"op.drop_outbox({place})")
    text = project.printed()
    # Then psql makes our tables of it
    run_script(postgresql_url, text)
    assert check(postgresql_url, names) == []
    # and takes them away again
    run_script(postgresql_url, project.printed(down="head:base"))
    assert [finding.component for finding in check(postgresql_url, names)] == ["outbox", "inbox"]


def test_printed_sql_refuses_to_lose_messages(
    new_project: Callable[..., Project], postgresql_url: str
) -> None:
    project = new_project("postgresql+psycopg://nowhere.invalid/x").begin()
    project.revision(CREATE, DROP)
    run_script(postgresql_url, project.printed())
    write(postgresql_url)
    with pytest.raises(psycopg.errors.RaiseException, match="not delivered yet"):
        run_script(postgresql_url, project.printed(down="head:base"))
    assert check(postgresql_url) == []


def test_printed_sql_for_sqlite(new_project: Callable[..., Project], tmp_path: Path) -> None:
    project = new_project(f"sqlite:///{tmp_path}/shop.db").begin()
    project.revision(CREATE, DROP)
    text = project.printed()
    engine = create_engine(project.url, poolclass=NullPool)
    raw = engine.raw_connection()
    raw.driver_connection.executescript(text)  # type: ignore[union-attr] # it is open
    raw.close()
    assert check(project.url) == []
    with pytest.raises(CommandError, match="force=True"):
        project.printed(down="head:base")


def run_script(url: str, script: str) -> None:
    """Run a whole script, as psql does."""
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        connection.execute(script)


def test_a_percent_sign_is_printed_once(new_project: Callable[..., Project]) -> None:
    """Also where env.py does not ask for a paramstyle without them."""
    project = new_project("postgresql+psycopg://nowhere.invalid/x").begin()
    env = project.directory / "migrations" / "env.py"
    env.write_text(env.read_text().replace('dialect_opts={"paramstyle": "named"},', ""))
    project.revision(CREATE)
    printed = project.printed()
    assert "%" in printed
    assert "%%" not in printed
