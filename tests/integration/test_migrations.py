"""The tables are made once, by whoever comes first, and only where they are ours."""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from psycopg import errors

from outbox.database import DatabaseUrl, connect_postgresql, connect_sqlite
from outbox.errors import ConfigurationError, SchemaMissing, SchemaTooNew, SchemaTooOld
from outbox.migrations import check, grants, migrate, require_schema, sql
from outbox.names import RELATIONS, Names
from outbox.schema import source
from outbox.schema.source import Step, directory, tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.postgresql import PostgreSQLServer

ALL_STEPS = ["0001_outbox", "0001_inbox"]
ELSEWHERE = Names("events", "shop_")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/log.db"
    return str(request.getfixturevalue("postgresql_url"))


@contextmanager
def connected(url: str) -> Iterator[Any]:
    parsed = DatabaseUrl.parse(url)
    sqlite = parsed.dialect == "sqlite"
    connection: Any = (
        connect_sqlite(parsed.path, create=True) if sqlite else connect_postgresql(parsed)
    )
    with closing(connection):
        yield connection


def value(url: str, query: str) -> Any:
    with connected(url) as connection:
        return connection.execute(query).fetchone()[0]


def run(url: str, *statements: str) -> None:
    with connected(url) as connection:
        for statement in statements:
            connection.execute(statement)


# migrate


def test_the_tables_are_made_once(url: str) -> None:
    assert [step.name for step in migrate(url)] == ALL_STEPS
    assert migrate(url) == []
    assert check(url) == []
    assert value(url, "select count(*) from outbox_cursor") == 1


def test_one_side_can_come_alone(url: str) -> None:
    assert [step.name for step in migrate(url, only="inbox")] == ["0001_inbox"]
    assert check(url, only="inbox") == []
    assert [finding.component for finding in check(url)] == ["outbox"]
    assert [step.name for step in migrate(url)] == ["0001_outbox"]


def test_many_at_once_make_them_once(url: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        applied = list(pool.map(lambda _: migrate(url), range(8)))
    assert sorted(len(steps) for steps in applied) == [0] * 7 + [2]
    assert check(url) == []


def test_a_prefix_makes_a_second_set_beside_the_first(url: str) -> None:
    migrate(url)
    assert len(migrate(url, Names(prefix="shop_"))) == 2
    assert check(url, Names(prefix="shop_")) == []


def test_tables_of_somebody_else_are_left_alone(url: str) -> None:
    # Given a table that has one of our names
    run(url, "create table inbox_message (mine integer)")
    # When the tables are to be made
    with pytest.raises(ConfigurationError, match=r"inbox_message.*did not make"):
        migrate(url)
    # Then nothing was made, of the other side neither
    with pytest.raises(Exception, match="outbox_meta"):
        value(url, "select version from outbox_meta")


def test_a_meta_table_of_somebody_else_is_not_believed(url: str) -> None:
    run(url, "create table outbox_meta (version integer)")
    with pytest.raises(ConfigurationError, match="outbox_meta"):
        migrate(url)


def test_what_fails_half_way_leaves_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dialect = DatabaseUrl.parse(url).dialect
    broken = Step("0002_outbox_broken", "outbox", 2, "create table outbox_new (a int);\nnonsense;")
    with_steps(monkeypatch, dialect, broken)
    with pytest.raises(Exception, match="nonsense"):
        migrate(url)
    monkeypatch.undo()
    assert [step.name for step in migrate(url)] == ALL_STEPS


def with_steps(monkeypatch: pytest.MonkeyPatch, dialect: str, *more: Step) -> None:
    """Given migrations of a later version."""
    now = tuple(source.steps(dialect))  # type: ignore[arg-type] # one of the two
    monkeypatch.setattr(source, "_load", lambda _: (*now, *more))


def test_only_what_is_outstanding_is_applied(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(url)
    step = Step(
        "0002_outbox_more",
        "outbox",
        2,
        "alter table outbox_cursor add column more integer not null default 0;\n"
        "update outbox_meta set version = 2;",
    )
    with_steps(monkeypatch, DatabaseUrl.parse(url).dialect, step)
    assert [step.name for step in migrate(url)] == ["0002_outbox_more"]
    assert migrate(url) == []
    assert value(url, "select version from outbox_meta") == 2


@pytest.mark.postgresql
def test_a_change_of_the_cursor_keeps_it_recognised_as_native(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a cursor of this cluster and one that looks restored
    migrate(postgresql_url)
    run(
        postgresql_url,
        "insert into outbox_cursor (relay, lane, written_by) values ('restored', 'default', '7')",
    )
    # When a migration rewrites the rows
    rewrite = "alter table outbox_cursor alter after_seq type numeric;"
    with_steps(monkeypatch, "postgresql", Step("0002_outbox_rewrite", "outbox", 2, rewrite))
    migrate(postgresql_url)
    # Then each is still what it was
    with connected(postgresql_url) as connection:
        native = connection.execute(
            "select relay, xmin::text = (written_by::text::numeric % 4294967296)::text "
            "from outbox_cursor order by relay"
        ).fetchall()
    assert native == [("default", True), ("restored", False)]


# Places


@pytest.mark.postgresql
def test_a_schema_is_made_where_it_is_missing(postgresql_url: str) -> None:
    migrate(postgresql_url, ELSEWHERE)
    assert check(postgresql_url, ELSEWHERE) == []
    made = value(
        postgresql_url,
        "select array_agg(relname::text) from pg_class "
        "where relnamespace = 'events'::regnamespace and relkind in ('r', 'p', 'S') "
        # Sequences of identity columns are parts of their tables.
        "and not (relkind = 'S' and exists (select from pg_depend "
        "where classid = 'pg_class'::regclass and objid = pg_class.oid and deptype = 'i'))",
    )
    assert set(made) == {f"shop_{name}" for name in RELATIONS if name != "outbox_slot"}


@pytest.mark.postgresql
def test_no_schema_to_be_in_is_said(postgresql_url: str) -> None:
    with pytest.raises(ConfigurationError, match="--schema"):
        migrate(postgresql_url + "?options=-csearch_path%3Dnowhere")


def test_sqlite_has_no_schemas_and_no_roles(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    for refused in (
        lambda: migrate(url, Names("events")),
        lambda: migrate(url, relay_role="relay"),
        lambda: sql("sqlite", Names("events")),
        lambda: sql("sqlite", Names(), writer_role="app"),
    ):
        with pytest.raises(ConfigurationError, match="SQLite has no"):
            refused()
    assert not (tmp_path / "log.db").exists()


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
def test_a_wheel_finds_its_sql_inside_and_a_checkout_beside(
    dialect: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a package without its checkout, as a wheel installs it
    beside = directory(dialect)
    package = tmp_path / "outbox"
    (package / "schema").mkdir(parents=True)
    monkeypatch.setattr(source, "__file__", str(package / "schema" / "source.py"))
    with pytest.raises(ConfigurationError, match="install it again"):
        directory(dialect)
    # Then what it carries is found, and is the same
    shutil.copytree(beside.parent, package / "_migrations")
    assert directory(dialect) == package / "_migrations" / dialect
    assert sorted(path.name for path in directory(dialect).iterdir()) == sorted(
        path.name for path in beside.iterdir()
    )


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
def test_the_names_know_every_relation(dialect: Any) -> None:
    made = {*tables(dialect, "outbox"), *tables(dialect, "inbox")}
    assert made <= set(RELATIONS)


# SQL


@pytest.mark.postgresql
@pytest.mark.parametrize("names", [Names(), ELSEWHERE], ids=["plain", "elsewhere"])
def test_printed_sql_makes_what_migrate_makes(postgresql_url: str, names: Names) -> None:
    text = sql("postgresql", names)
    assert text == sql("postgresql", names)
    run(postgresql_url, text)
    assert check(postgresql_url, names) == []
    assert migrate(postgresql_url, names) == []


def test_printed_sql_works_for_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with closing(connect_sqlite(str(path), create=True)) as connection:
        connection.executescript(sql("sqlite", Names()))
    assert check(f"sqlite:///{path}") == []


@pytest.mark.postgresql
def test_psql_takes_the_printed_sql(postgresql_url: str) -> None:
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("psql is not installed")
    done = subprocess.run(
        [psql, "-q", "-v", "ON_ERROR_STOP=1", postgresql_url],
        input=sql("postgresql", ELSEWHERE),
        text=True,
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert check(postgresql_url, ELSEWHERE) == []


# check

DAMAGE = {
    "alter table outbox_message alter seq set default nextval('outbox_message_seq')": (
        r"column outbox_message.seq is .* should be .*nextval\( CASE WHEN \(pg_current_xact_id"
    ),
    "alter table outbox_message alter xid drop default": "column outbox_message.xid is",
    "alter sequence outbox_message_seq cache 10": "cache 10 .* should be .* cache 1 ",
    "alter table outbox_message drop constraint outbox_message_pkey, add primary key (slot, seq)": (
        r"btree \(seq, slot\) is missing: primary key unique"
    ),
    "drop index outbox_message_xid_idx": r"btree \(xid, seq\) is missing",
    "drop table outbox_process": "table outbox_process is missing",
    "drop table outbox_message_2": "table outbox_message_2 is missing",
    "alter table outbox_message drop column key_id": "column outbox_message.key_id is missing",
    "alter table outbox_message drop constraint outbox_message_expires_at_check": (
        "check outbox_message.outbox_message_expires_at_check is missing"
    ),
    "create or replace function outbox_slot() returns smallint language sql "
    "as 'select 1::smallint'": "function outbox_slot is",
    "update outbox_cursor set written_by = '7'": "restored from a dump.*--rebase",
    "insert into outbox_message (seq, topic, key) values (500, 't', 'k')": "below message 500",
    "update outbox_meta set version = 0": "version 0, this code needs 1",
    "update outbox_meta set version = 9, compatible_from = 9": "upgrade outbox-relay",
}


@pytest.mark.postgresql
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_named(postgresql_url: str, damage: str) -> None:
    migrate(postgresql_url)
    run(
        postgresql_url,
        damage,
    )
    findings = check(postgresql_url)
    assert len(findings) == 1, findings
    assert re.search(DAMAGE[damage], findings[0].problem)


@pytest.mark.postgresql
def test_what_users_add_is_no_damage(postgresql_url: str) -> None:
    migrate(postgresql_url)
    run(
        postgresql_url,
        "create index on outbox_message (topic)",
        "alter table outbox_message add column tenant text",
        "analyze",
    )
    assert check(postgresql_url) == []


def test_damage_is_found_in_sqlite(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    migrate(url)
    run(url, "alter table outbox_message drop column key_id", "drop table outbox_process")
    assert [finding.problem.split(": ")[0].split(" is ")[0] for finding in check(url)] == [
        "column outbox_message.key_id",
        "table outbox_process",
    ]


def test_a_check_changes_nothing(url: str) -> None:
    migrate(url)
    tables_before = table_names(url)
    check(url)
    assert table_names(url) == tables_before


def table_names(url: str) -> list[Any]:
    catalog = "pg_class" if url.startswith("postgresql") else "sqlite_master"
    column = "relname" if url.startswith("postgresql") else "name"
    with connected(url) as connection:
        return sorted(connection.execute(f"select {column} from {catalog}").fetchall())


# Versions


@pytest.mark.parametrize(
    ("meta", "raised"),
    [
        (None, SchemaMissing),
        ((0, 0), SchemaTooOld),
        ((2, 2), SchemaTooNew),
        ((1, 1), None),
        ((2, 1), None),
    ],
)
def test_code_runs_on_its_own_version_and_on_later_ones_that_say_so(
    meta: tuple[int, int] | None, raised: type[Exception] | None
) -> None:
    if raised is None:
        require_schema(lambda: meta)
        return
    with pytest.raises(raised, match="outbox"):
        require_schema(lambda: meta)


# Grants


@pytest.fixture
def roles(postgresql_server: PostgreSQLServer) -> Iterator[tuple[str, str]]:
    """Give a role that writes and one that relays, with a dash in their names."""
    writer, relay = "outbox-test-writer", "outbox-test-relay"
    administrator = postgresql_server.url("postgres")
    for role in (writer, relay):
        run(administrator, f'drop role if exists "{role}"', f'create role "{role}"')
    yield writer, relay
    for role in (writer, relay):
        run(administrator, f'drop role "{role}"')


HELD = "relay, lane, seq, created_at, id, topic, state, blocks"
AUDIT = "action, actor, source, command, what, messages"
AN_ID = "018f3f1e-0000-7000-8000-000000000001"


@pytest.mark.postgresql
@pytest.mark.parametrize("names", [Names(), ELSEWHERE], ids=["plain", "elsewhere"])
def test_each_role_can_do_its_work_and_nothing_else(
    roles: tuple[str, str], postgresql_url: str, names: Names
) -> None:
    writer, relay = roles
    migrate(postgresql_url, names, writer_role=writer, relay_role=relay)
    log, cursor, meta = (names[f"outbox_{n}"] for n in ("message", "cursor", "meta"))
    held, audit = names["outbox_held"], names["outbox_audit"]
    scheduled = names["outbox_scheduled"]
    allowed = {
        writer: [
            f"insert into {log} (topic, key, payload) values ('t', 'k', 'x')",
            f"insert into {scheduled} (topic, key, due_at, wait_for) values ('t', 'k', now(), 'c')",
            f"update {scheduled} set wait_for = null, due_at = now() where wait_for = 'c'",
            f"delete from {scheduled} where id = gen_random_uuid()",
        ],
        relay: [
            f"select * from {scheduled} for update skip locked",
            f"insert into {log} (topic, key) values ('t', 'k')",
            f"delete from {scheduled}",
            f"select seq from {log}",
            f"select last_value from {names['outbox_message_seq']}",
            f"update {cursor} set after_seq = 0",
            f"insert into {names['outbox_plan']} values ('x', 'y', 0, 0, '3:3:', 0, '3:3:', 0, 0)",
            f"delete from {names['outbox_plan']} where relay = 'x'",
            f"insert into {names['outbox_process']} values ('r', 'p', 'v', 's')",
            f"insert into {held} ({HELD}) values ('r', 'l', 1, now(), '{AN_ID}', 't', 'dead', '0')",
            f"update {held} set state = 'retrying'",
            f"delete from {held}",
            f"insert into {audit} ({AUDIT}) values ('{AN_ID}', 'me', 'here', 'c', '{{}}', 1)",
            f"update {meta} set log_id = gen_random_uuid(), timeline = 't'",
        ],
    }
    refused = {
        writer: [
            f"insert into {log} (seq, topic, key) values (1, 't', 'k')",
            f"insert into {log} (xid, topic, key) values ('3', 't', 'k')",
            f"select * from {log}",
            f"delete from {log}",
            f"select * from {cursor}",
            f"select payload from {scheduled}",
            f"update {scheduled} set topic = 'x'",
            f"insert into {scheduled} (created_at, topic, key) values (now(), 't', 'k')",
        ],
        relay: [
            f"insert into {log} (seq, topic, key) values (1, 't', 'k')",
            f"insert into {scheduled} (topic, key, due_at) values ('t', 'k', now())",
            f"update {log} set topic = 'x'",
            f"update {names['outbox_plan']} set floor = 0",
            f"update {audit} set actor = 'somebody else'",
            f"delete from {audit}",
            f"update {meta} set version = 2",
            f"select setval('{names['outbox_message_seq']}', 1)",
        ],
    }
    with connected(postgresql_url) as connection:
        for role in roles:
            connection.execute(f'set role "{role}"')
            for statement in allowed[role]:
                connection.execute(statement)
            for statement in refused[role]:
                with pytest.raises(errors.InsufficientPrivilege):
                    connection.execute(statement)
        connection.execute("reset role")
        for role in roles:
            connection.execute(f'drop owned by "{role}"')


def test_grants_are_text_without_a_connection() -> None:
    text = grants(ELSEWHERE, writer_role='a"b')
    assert 'grant usage on schema "events" to "a""b";' in text
    assert grants(Names()) == ""
    assert text.strip() in sql("postgresql", ELSEWHERE, writer_role='a"b')


@pytest.mark.postgresql
def test_a_role_without_rights_is_told_who_to_be(
    roles: tuple[str, str], postgresql_url: str
) -> None:
    migrate(postgresql_url)
    as_writer = postgresql_url + f"?options=-crole%3D{roles[0]}"
    with pytest.raises(ConfigurationError, match="as the owner"):
        migrate(as_writer, Names("another"))
