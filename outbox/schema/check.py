"""Compare the tables with what the migrations make, down to the default of every column.

The comparison is with the thing itself: the same migrations are run in a place that vanishes
(temporary tables in a transaction that is rolled back, a SQLite database in memory), and both are
described in the same words. So nothing here can fall behind the migrations.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from outbox.database import DatabaseUrl, connect_sqlite
from outbox.errors import DatabaseUnavailable, OutboxError
from outbox.names import Names
from outbox.schema import postgresql, sqlite
from outbox.schema.definitions import take_apart
from outbox.schema.retention import set_pace
from outbox.schema.source import COMPONENTS, check_names, functions, steps, tables
from outbox.schema.version import SCHEMA_VERSION, Component, require_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import psycopg

    from outbox.database import PasswordCallback

#: What there is: (kind, name) to its definition.
Description: TypeAlias = Mapping[tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class Finding:
    """One way in which the tables are not what this version expects."""

    component: Component
    problem: str


def check(
    url: DatabaseUrl | str,
    names: Names | None = None,
    *,
    only: Component | None = None,
    password_callback: PasswordCallback | None = None,
) -> list[Finding]:
    """Return what is wrong with the tables, nothing if all is well. Changes nothing.

    What is there beyond our own, such as another index, is not a finding. Raises
    DatabaseUnavailable.
    """
    url = DatabaseUrl.parse(url) if isinstance(url, str) else url
    names = Names() if names is None else names
    check_names(url.dialect, names)
    if url.dialect == "sqlite":
        return _check_sqlite(url.path, names, only)
    with postgresql.transaction(url, password_callback=password_callback) as connection:
        return check_postgresql(connection, names, only=only)


def check_postgresql(
    connection: psycopg.Connection, names: Names, *, only: Component | None = None
) -> list[Finding]:
    """Do the same on an open connection, in a savepoint that is rolled back."""
    schema = postgresql.place(connection, names)
    return [f for part in _wanted(only) for f in _check(connection, schema, names, part)]


def check_sqlite(
    connection: sqlite3.Connection, names: Names, *, only: Component | None = None
) -> list[Finding]:
    """Do the same on an open connection, which is only read."""
    with closing(sqlite3.connect(":memory:")) as expected:
        return [
            finding
            for part in _wanted(only)
            for finding in _check_component(connection, expected, names, part)
        ]


def _wanted(only: Component | None) -> list[Component]:
    return [part for part in COMPONENTS if only in (None, part)]


def _check(
    connection: psycopg.Connection, schema: str, names: Names, component: Component
) -> list[Finding]:
    actual = describe(connection, schema, names, component)
    if illegible := _illegible(actual, names, component):
        return illegible
    meta = postgresql.read_meta(connection, schema, names, component)
    if (finding := _version(lambda: meta, component)) or _is_newer(meta):
        return finding
    findings = _compare(_expected(connection, names, component), actual, component)
    if component == "outbox" and not findings:
        findings = [Finding(component, text) for text in _cursor_problems(connection, names)]
    return findings


def _illegible(actual: Description, names: Names, component: Component) -> list[Finding]:
    """Say why the version cannot be read from a table of versions that is there."""
    meta = f"{names.prefix}{component}_meta"
    if ("table", meta) not in actual:
        return []
    columns = ("column", f"{meta}.version"), ("column", f"{meta}.compatible_from")
    return _compare(dict.fromkeys(columns, "integer not null"), actual, component)


def _version(
    read_meta: Callable[[], tuple[int, int] | None], component: Component
) -> list[Finding]:
    try:
        require_schema(read_meta, component)
    except OutboxError as error:
        return [Finding(component, str(error))]
    return []


def _is_newer(meta: tuple[int, int] | None) -> bool:
    """Whether the tables are of a later version, whose shape this code cannot know."""
    return meta is not None and meta[0] > SCHEMA_VERSION


def _compare(expected: Description, actual: Description, component: Component) -> list[Finding]:
    missing = {name for kind, name in expected if (kind, name) not in actual and kind == "table"}
    problems = []
    for (kind, name), definition in expected.items():
        found = actual.get((kind, name))
        if found is None and (kind == "table" or re.split(r"[ .]", name)[0] not in missing):
            problems.append(f"{kind} {name} is missing" + (definition and f": {definition}"))
        elif found is not None and found != definition:
            problems.append(f"{kind} {name} is [{found}] and should be [{definition}]")
    return [Finding(component, problem) for problem in _without_partitions(problems)]


def _without_partitions(problems: list[str]) -> list[str]:
    """Leave out what is said of a partition and of the whole log alike."""
    whole = set(problems)
    return sorted(
        problem
        for problem in problems
        if (of_parent := re.sub(r"(outbox_message)_\d\b", r"\1", problem)) == problem
        or of_parent not in whole
    )


def _expected(connection: psycopg.Connection, names: Names, component: Component) -> Description:
    temporary = Names("pg_temp", names.prefix)
    # Before the temporary tables, which hide those of the search path.
    retention_s = _retention(connection, names, component)
    with connection.transaction(force_rollback=True):
        for step in steps("postgresql", component):
            postgresql.run(connection, step.sql(temporary))
        if retention_s:
            set_pace(connection, temporary, retention_s)
        (schema,) = postgresql.one(
            connection, "select nspname from pg_namespace where oid = pg_my_temp_schema()"
        )
        return describe(connection, schema, temporary, component)


def _retention(connection: psycopg.Connection, names: Names, component: Component) -> int | None:
    """Return the retention, at whose pace the slots should take turns; None if nothing tells it."""
    if component != "outbox":
        return None
    # Through JSON: the column may be what is missing.
    query = f"select (to_jsonb(m) ->> 'retention_s')::int from {names['outbox_meta']} as m"
    found = postgresql.rows(connection, query)
    return found[0][0] if found else None


def describe(
    connection: psycopg.Connection, schema: str, names: Names, component: Component
) -> Description:
    """Return what the schema has under our names, in words that do not name the schema."""
    values = {
        "schema": schema,
        "relations": [names.prefix + name for name in tables("postgresql", component)],
        "functions": [names.prefix + name for name in functions("postgresql", component)],
        "mark": postgresql.MARK,
    }
    found = postgresql.rows(connection, _DESCRIBE, values)
    qualifier = re.compile(rf'(?:pg_temp(?:_\d+)?|"?{re.escape(schema)}"?)\.')
    return {
        (str(kind), str(name)): " ".join(qualifier.sub("", str(definition)).split())
        for kind, name, definition in found
    }


_DESCRIBE = """
with ours as (
    select c.* from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
     where n.nspname = %(schema)s and c.relname = any(%(relations)s))
select case relkind when 'S' then 'sequence' else 'table' end, relname::text,
       concat_ws(' ', 'kind', relkind, pg_get_expr(relpartbound, oid), pg_get_partkeydef(oid),
                 case when relpersistence = 'u' then 'unlogged' end,
                 case when relrowsecurity then 'with row security' end)
  from ours
union all
select 'comment', relname::text, 'begins with ' || %(mark)s::text
  from ours where starts_with(obj_description(oid, 'pg_class'), %(mark)s::text)
union all
-- Each option by itself: those that somebody added are no business of ours.
select 'storage option', relname || ' ' || split_part(option, '=', 1), split_part(option, '=', 2)
  from ours, unnest(reloptions) as option
union all
select 'column', o.relname || '.' || a.attname,
       concat_ws(' ', format_type(a.atttypid, a.atttypmod),
                 case when a.attcollation <> t.typcollation
                      then 'collate ' || a.attcollation::regcollation::text end,
                 case when a.attnotnull then 'not null' end,
                 'default ' || pg_get_expr(d.adbin, d.adrelid),
                 nullif('identity ' || a.attidentity::text, 'identity '),
                 nullif('generated ' || a.attgenerated::text, 'generated '))
  from ours as o
  join pg_attribute as a on a.attrelid = o.oid and a.attnum > 0 and not a.attisdropped
  join pg_type as t on t.oid = a.atttypid
  left join pg_attrdef as d on d.adrelid = o.oid and d.adnum = a.attnum
 where o.relkind in ('r', 'p')
union all
select 'index', o.relname || ' ' || substring(pg_get_indexdef(i.indexrelid) from ' USING (.*)$'),
       concat_ws(' ', case when i.indisprimary then 'primary key' end,
                 case when i.indisunique then 'unique' end,
                 case when not i.indisvalid then 'invalid' end)
  from ours as o join pg_index as i on i.indrelid = o.oid
union all
select 'check', o.relname || '.' || c.conname, pg_get_constraintdef(c.oid)
  from ours as o join pg_constraint as c on c.conrelid = o.oid and c.contype = 'c'
 where c.conislocal
union all
select 'sequence setting', o.relname::text,
       format('%%s start %%s minimum %%s maximum %%s increment %%s cache %%s %%s%%s',
              s.seqtypid::regtype, s.seqstart, s.seqmin, s.seqmax, s.seqincrement, s.seqcache,
              case when s.seqcycle then 'cycle' else 'no cycle' end,
              (select ' owned by ' || d.refobjid::regclass::text from pg_depend as d
                where d.classid = 'pg_class'::regclass and d.objid = o.oid and d.deptype = 'a'))
  from ours as o join pg_sequence as s on s.seqrelid = o.oid
union all
select 'function', p.proname::text, pg_get_functiondef(p.oid)
  from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
 where n.nspname = %(schema)s and p.proname = any(%(functions)s)
"""


def _cursor_problems(connection: psycopg.Connection, names: Names) -> Iterable[str]:
    """Say what the relay would stop for."""
    restored = postgresql.rows(
        connection,
        f"""select relay from {names["outbox_cursor"]}
             where xmin::text <> (written_by::text::numeric % 4294967296)::text order by relay""",
    )
    for (relay,) in restored:
        yield (
            f"the cursor of relay {relay!r} was restored from a dump; run "
            "`outbox-relay migrate --rebase`"
        )
    behind = postgresql.rows(
        connection,
        f"""select s.last_value, m.top from {names["outbox_message_seq"]} as s,
                   (select max(seq) as top from {names["outbox_message"]}) as m
             where m.top > case when s.is_called then s.last_value else 0 end""",
    )
    for last_value, top in behind:
        yield (
            f"the sequence stands at {last_value}, below message {top}; run "
            "`outbox-relay migrate --rebase`"
        )


def _check_sqlite(path: str, names: Names, only: Component | None) -> list[Finding]:
    with closing(connect_sqlite(path)) as connection:
        try:
            return check_sqlite(connection, names, only=only)
        except sqlite3.Error as error:
            raise DatabaseUnavailable(f"the SQLite file {path}: {error}") from error


def _check_component(
    actual: sqlite3.Connection, expected: sqlite3.Connection, names: Names, component: Component
) -> list[Finding]:
    found = _describe_sqlite(actual, names, component)
    if illegible := _illegible(found, names, component):
        return illegible
    meta = sqlite.read_meta(actual, names, component)
    if (finding := _version(lambda: meta, component)) or _is_newer(meta):
        return finding
    for step in steps("sqlite", component):
        sqlite.run_script(expected, step.sql(names))
    return _compare(_describe_sqlite(expected, names, component), found, component)


def _describe_sqlite(
    connection: sqlite3.Connection, names: Names, component: Component
) -> Description:
    described: dict[tuple[str, str], str] = {}
    for plain in tables("sqlite", component):
        table = names.prefix + plain
        found = connection.execute(
            "select sql from sqlite_master where type = 'table' and name = ?", (table,)
        ).fetchone()
        if found:
            described |= take_apart(table, found[0])
    return described
