"""Checks of the tables and of the log in them."""

from __future__ import annotations

from collections.abc import Iterator

from outbox.doctor.check import NotChecked, Verdict, check, failed, warning
from outbox.doctor.patient import Patient
from outbox.doctor.words import age, size
from outbox.errors import SchemaMissing
from outbox.schema.check import Finding
from outbox.store.base import Blocker
from outbox.store.diagnosis import Scan, Sequence, Setting, Table

_LARGE_BYTES = 20 << 30
_MANY_DEAD_ROWS = 50_000


def drift(found: list[Finding]) -> Iterator[Verdict]:
    """Judge the differences between the tables and what they should be."""
    for finding in found:
        # Some sentences end with what to do.
        problem, _, repair = finding.problem.partition("; run ")
        yield failed(
            f"{finding.component}: {problem}",
            f"run {repair}" if repair else "restore it as `outbox-relay migrate --sql` has it",
        )


def _outbox_drift(patient: Patient) -> list[Finding]:
    try:
        if patient.database.has("inbox_meta") and not patient.database.has("outbox_meta"):
            raise NotChecked("there are the inbox's tables only")
        return patient.database.drift("outbox")
    except SchemaMissing as error:  # the file of SQLite
        return [Finding("outbox", str(error))]


def _inbox_drift(patient: Patient) -> list[Finding]:
    if not patient.database.has("inbox_meta"):
        raise NotChecked("there is no inbox here")
    return patient.database.drift("inbox")


def sequence(answer: tuple[Sequence, str]) -> Iterator[Verdict]:
    """Judge how numbers are drawn: the order of the log rests on it."""
    found, name = answer
    if found.cache != 1:
        yield failed(
            f"the sequence of the log has cache {found.cache}: sessions draw numbers in advance,"
            " so messages are lost and out of order, and the relay stops",
            f"alter sequence {name} cache 1; then restart the writers",
        )
    if found.increment != 1 or found.cycles:
        yield failed(
            f"the sequence of the log has increment {found.increment}"
            + (" and cycles" if found.cycles else "")
            + ": numbers must rise, one by one",
            f"alter sequence {name} increment 1 no cycle",
        )


def sequence_position(found: Sequence) -> Iterator[Verdict]:
    """Judge whether the sequence was set back."""
    if found.last_value < found.top:
        yield failed(
            f"the sequence stands at {found.last_value}, below message {found.top} of the log: new"
            " messages would get numbers that were passed, and never be delivered",
            "stop the relays and run `outbox-relay migrate --rebase`",
        )


def hot_queries(scans: list[Scan]) -> Iterator[Verdict]:
    """Judge whether the relay's reads go by the index they are meant for."""
    needs = {"fresh": "seq", "late": "xid"}
    for query, column in needs.items():
        bad = sorted(
            {
                f"{scan.kind} {scan.table}".strip()
                for scan in scans
                if scan.query == query
                and not (scan.kind.startswith("Index") and f"{column} >" in scan.condition)
                and not (scan.kind.startswith("Index") and f"ROW({column}" in scan.condition)
            }
        )
        if bad:
            yield failed(
                f"the relay's read of {query} messages does not go by the index that begins with"
                f" {column} ({', '.join(bad)}): every poll reads the whole log",
                "restore the index as `outbox-relay migrate --sql` has it, or reindex it if it is"
                " invalid",
            )


def autovacuum(answer: tuple[list[Table], list[Setting]]) -> Iterator[Verdict]:
    """Judge whether dead rows of the small tables are cleared away."""
    tables, settings = answer
    for setting in settings:
        if setting.value == "off":
            yield warning(
                f"{setting.name} is off for {setting.whose}: nothing clears away old versions of"
                " the cursors, and statistics grow old",
                f"alter system set {setting.name} = on; select pg_reload_conf()",
            )
    for table in tables:
        if not table.autovacuum:
            yield warning(
                f"autovacuum is switched off for table {table.name}",
                f"alter table {table.name} reset (autovacuum_enabled)",
            )
        if table.dead_rows > max(_MANY_DEAD_ROWS, table.rows):
            yield warning(
                f"table {table.name} has about {table.dead_rows} dead rows: vacuum does not keep up"
                " or something holds it back",
                f"see long-transactions and replication-slots, then vacuum {table.name}",
            )


def row_security(tables: list[Table]) -> Iterator[Verdict]:
    """Judge whether policies hide messages from this role."""
    hidden = [table.name for table in tables if table.row_security]
    if hidden:
        yield failed(
            f"row-level security applies to this role on {', '.join(hidden)}: rows that a policy"
            " hides are never delivered, and nobody is told",
            "alter role … bypassrls for the role of the relay, or alter table … disable row level"
            " security",
        )


def subscriptions(names: list[str]) -> Iterator[Verdict]:
    """Judge logical replication into the log: its transaction ids mean nothing here."""
    for name in names:
        yield failed(
            f"subscription {name} writes into the log: rows that come by logical replication carry"
            " another server's transaction ids and are not delivered rightly",
            f"leave outbox_message out of the publication of {name}, and run a relay at the source",
        )


def held_messages(answer: tuple[list[Blocker], float]) -> Iterator[Verdict]:
    """Judge transactions that have written messages and not ended."""
    blockers, older_than_s = answer
    for blocker in blockers:
        if blocker.age_seconds >= older_than_s:
            yield warning(
                f"{blocker.kind} transaction ({blocker.who}) has held messages for"
                f" {age(blocker.age_seconds)}; they are sent when it commits",
                "let the application commit before it waits for anything else"
                if blocker.kind == "open"
                else f"commit prepared {_literal(blocker.who)}, or rollback prepared"
                f" {_literal(blocker.who)}",
            )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def log_size(tables: list[Table]) -> Iterator[Verdict]:
    """Judge how large the log is; its size costs disk, not speed."""
    _, total = _log(tables)
    if total > _LARGE_BYTES:
        yield warning(
            f"the log takes {size(total)}: {_slots(tables)}",
            "outbox-relay prune; what a relay name has not delivered stays (see relay-forgotten)",
        )


def _log(tables: list[Table]) -> tuple[int, int]:
    parts = [table for table in tables if table.name[-1:].isdigit()]
    return sum(table.rows for table in parts), sum(table.bytes for table in parts)


def _slots(tables: list[Table]) -> str:
    parts = [table for table in tables if table.name[-1:].isdigit()]
    return ", ".join(f"{table.name} about {table.rows} rows" for table in parts)


def _log_said(tables: list[Table]) -> str:
    rows, total = _log(tables)
    return f"about {rows} messages, {size(total)} ({_slots(tables)})"


CHECKS = (
    check(
        "schema",
        "log",
        looks_at="the tables against what the migrations make, down to defaults and indexes",
        advice="`outbox-relay migrate`, or restore what is missing",
        probe=_outbox_drift,
        judge=drift,
        well="the tables are as they should be",
    ),
    check(
        "inbox-schema",
        "log",
        looks_at="the same for the inbox, where there is one",
        advice="`outbox-relay migrate --only inbox`, or restore what is missing",
        probe=_inbox_drift,
        judge=drift,
        well="the inbox's tables are as they should be",
    ),
    check(
        "sequence-cache",
        "log",
        looks_at="`cache`, `increment` and `cycle` of the log's sequence",
        advice="`alter sequence outbox_message_seq cache 1`",
        probe=lambda p: (p.sequence(), p.settings.names["outbox_message_seq"]),
        judge=sequence,
        well="the sequence draws one number at a time",
        database="postgresql",
    ),
    check(
        "sequence-position",
        "log",
        looks_at="a sequence that stands below the log",
        advice="stop the relays and run `outbox-relay migrate --rebase`",
        probe=lambda patient: patient.sequence(),
        judge=sequence_position,
        well=lambda found: f"the sequence stands at {found.last_value}, at or above the log",
    ),
    check(
        "hot-queries",
        "log",
        looks_at="the plans of the relay's own reads, explained with its SQL and settings",
        advice="restore the index",
        probe=lambda patient: patient.postgresql.scans(),
        judge=hot_queries,
        well="the relay's reads go by their indexes",
        database="postgresql",
    ),
    check(
        "held-messages",
        "log",
        looks_at="transactions, open or prepared, that have written messages and not ended",
        advice="end them",
        probe=lambda patient: (patient.database.holders(), patient.older_than_s),
        judge=held_messages,
        well="no transaction holds messages for long",
        database="postgresql",
    ),
    check(
        "autovacuum",
        "log",
        looks_at="autovacuum, on the server and on our tables, and dead rows",
        advice="switch it on",
        probe=lambda patient: (
            patient.tables(),
            patient.postgresql.settings("autovacuum", "track_counts"),
        ),
        judge=autovacuum,
        well="autovacuum is on for all tables",
        database="postgresql",
    ),
    check(
        "row-security",
        "log",
        looks_at="row-level security that hides messages from the relay",
        advice="`alter role … bypassrls`",
        probe=lambda patient: patient.tables(),
        judge=row_security,
        well="no policy hides rows from this role",
        database="postgresql",
    ),
    check(
        "subscriptions",
        "log",
        looks_at="logical replication into the log",
        advice="leave the log out of the publication",
        probe=lambda patient: patient.postgresql.subscriptions(),
        judge=subscriptions,
        well="nothing is replicated into the log",
        database="postgresql",
    ),
    check(
        "log-size",
        "log",
        looks_at="the log's size, by the database's estimates",
        advice="`outbox-relay prune`",
        probe=lambda patient: patient.tables(),
        judge=log_size,
        well=_log_said,
        database="postgresql",
    ),
)
