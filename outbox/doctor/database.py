"""Checks of the database server, and of what it grants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from outbox.doctor.check import NotChecked, Verdict, check, failed, skipped, warning
from outbox.doctor.patient import Patient
from outbox.doctor.rights import required_rights
from outbox.doctor.words import age, size
from outbox.store.diagnosis import (
    Replication,
    Right,
    Server,
    Setting,
    Skew,
    Slot,
    Transactions,
)

_OLDEST = {"PostgreSQL": (13_00_00, "13"), "SQLite": (3_35_00, "3.35")}

#: A clock that is this far off, in seconds, makes times in messages and logs misleading.
_SKEW_S = 1.0

#: WAL that a replication slot may keep before it is worth a word.
_KEPT_BYTES = 1 << 30

#: What a role is for, its name (None: this connection's), and what it lacks (None: no such role).
_Rights: TypeAlias = tuple[str, str | None, list[Right] | None]

_SAFE_COMMITS = ("on", "remote_apply", "remote_write")


def server(found: Server) -> Iterator[Verdict]:
    """Judge the server: its version, and whether it can be written to."""
    number, oldest = _OLDEST[found.product]
    if found.number < number:
        yield failed(
            f"{found.product} {found.version} is too old", f"upgrade to {found.product} {oldest}"
        )
    if found.writable is not None:
        yield failed(
            f"the database cannot be written to: {found.writable}",
            "give the primary's address, or make it writable for the role of the relay",
        )


def clock(skew: Skew) -> Iterator[Verdict]:
    """Judge how far the clocks are apart, beyond what the network's delay leaves open."""
    if abs(skew.ahead_s) - skew.within_s > _SKEW_S:
        where = "ahead of" if skew.ahead_s > 0 else "behind"
        yield warning(
            f"the database's clock is {age(abs(skew.ahead_s))} {where} this machine's (±"
            f" {skew.within_s * 1000:.0f} ms): ages and times in messages mislead",
            "let both machines keep time with NTP (`timedatectl status`)",
        )


def isolation(settings: list[Setting]) -> Iterator[Verdict]:
    """Judge the default isolation: the relay's plans set their own, its small writes do not."""
    for setting in settings:
        if setting.value != "read committed":
            yield warning(
                f"default_transaction_isolation is {setting.value!r} for {setting.whose}: writes"
                " that meet another's may fail with a serialization error",
                "alter role … set default_transaction_isolation = 'read committed', for the role"
                " of the relay",
            )


def durability(settings: list[Setting]) -> Iterator[Verdict]:
    """Judge whether a crash can take back what was committed."""
    for setting in settings:
        if setting.name == "synchronous_commit" and setting.value not in _SAFE_COMMITS:
            yield warning(
                f"synchronous_commit is {setting.value} for {setting.whose}: a crash or fail-over"
                " can take back transactions that were committed, with their messages",
                "alter role … set synchronous_commit = on, for the roles that write messages",
            )
        elif setting.name in ("fsync", "full_page_writes") and setting.value == "off":
            yield warning(
                f"{setting.name} is off: a crash of the machine can destroy the log, and take back"
                " messages that were published",
                f"set {setting.name} = on in postgresql.conf",
            )


def replication(found: Replication) -> Iterator[Verdict]:
    """Judge whether a fail-over can take back messages that were published."""
    synchronous = [state for state in found.sync_states if state in ("sync", "quorum")]
    if found.synchronous_names and not synchronous and "unknown" not in found.sync_states:
        yield failed(
            f"synchronous_standby_names is {found.synchronous_names!r}, and no such standby is"
            " connected: every commit waits",
            "start the standby, or alter system set synchronous_standby_names = ''",
        )
    elif "async" in found.sync_states and not found.synchronous_names:
        yield warning(
            "all standbys are asynchronous: a fail-over can take back transactions whose messages"
            " were published",
            "name one in synchronous_standby_names, or accept it",
        )


def _replication_said(found: Replication) -> str:
    if not found.sync_states:
        return "no standby is connected, so there is nothing to fail over to"
    return f"standbys: {', '.join(found.sync_states)}"


def prepared(answer: tuple[Transactions, float]) -> Iterator[Verdict]:
    """Judge prepared transactions: nobody ends them but an operator."""
    transactions, older_than_s = answer
    for each in transactions.found:
        if each.kind == "prepared" and each.age_s >= older_than_s:
            gid = each.who.rpartition(" of ")[0] or each.who
            yield warning(
                f"transaction {each.who} was prepared {age(each.age_s)} ago and holds back vacuum,"
                " and its messages if it wrote any",
                f"commit prepared {gid}, or rollback prepared {gid}",
            )


def long_transactions(answer: tuple[Transactions, float]) -> Iterator[Verdict]:
    """Judge transactions that stay open."""
    transactions, older_than_s = answer
    for each in transactions.found:
        if each.kind == "open" and each.age_s >= older_than_s:
            yield warning(
                f"a transaction has been open for {age(each.age_s)} and holds back vacuum:"
                f" {each.who}",
                f"end it, or select pg_terminate_backend({each.who.split()[1]})",
            )
    if not transactions.complete:
        yield skipped(
            "this role sees the transactions of its own sessions only",
            "grant pg_read_all_stats to the role, or run this as another",
        )


def slots(found: list[Slot]) -> Iterator[Verdict]:
    """Judge replication slots: they can fill the disk, and hold back vacuum."""
    for slot in found:
        if slot.active and slot.kept_bytes < _KEPT_BYTES:
            continue
        who = "is behind" if slot.active else "is used by nobody"
        holds = " and holds back vacuum" if slot.holds_vacuum else ""
        yield warning(
            f"replication slot {slot.name} {who}, keeps {size(slot.kept_bytes)} of WAL{holds}"
            + (" and is lost" if slot.state == "lost" else ""),
            "start its consumer"
            if slot.active
            else f"start its consumer, or select pg_drop_replication_slot('{slot.name}')",
        )


def rights(answer: _Rights) -> Iterator[Verdict]:
    """Judge the rights that a role lacks. `answer`: what for, the role, what it lacks."""
    purpose, role, missing = answer
    if missing is None:
        yield failed(f"there is no role {role!r} on this server", f"create role {role}, or mend it")
    elif missing:
        what = ", ".join(map(_said, missing[:5])) + (" …" if len(missing) > 5 else "")
        yield failed(
            f"the {purpose} role{'' if role is None else f' {role}'} lacks: {what}",
            f"outbox-relay migrate --{purpose}-role {role or 'ROLE'}, as the owner of the tables",
        )


def _said(right: Right) -> str:
    column = "" if right.column is None else f" ({right.column})"
    return f"{right.privilege}{column} on {right.kind} {right.name}"


def _relay_rights(patient: Patient) -> _Rights:
    names, schema = patient.settings.names, patient.postgresql.schema()
    wanted = required_rights(names, schema, "relay")
    return "relay", patient.relay_role, _missing(patient, patient.relay_role, wanted)


def _writer_rights(patient: Patient) -> _Rights:
    if patient.writer_role is None:
        raise NotChecked("no role is given that writes messages", "give --writer-role ROLE")
    names, schema = patient.settings.names, patient.postgresql.schema()
    wanted = required_rights(names, schema, "writer")
    return "writer", patient.writer_role, _missing(patient, patient.writer_role, wanted)


def _missing(patient: Patient, role: str | None, wanted: list[Right]) -> list[Right] | None:
    """Return the rights that a role lacks; None: there is no such role."""
    if role is not None and not patient.postgresql.has_role(role):
        return None
    return patient.postgresql.missing_rights(role, wanted)


def journal(mode: str) -> Iterator[Verdict]:
    """Judge how the file is written."""
    if mode != "wal":
        yield warning(
            f"the file's journal_mode is {mode}: readers and writers keep each other waiting",
            "pragma journal_mode = wal (opening it with outbox-relay does that)",
        )


def _transactions(patient: Patient) -> tuple[Transactions, float]:
    return patient.postgresql.transactions(), patient.older_than_s


CHECKS = (
    check(
        "server",
        "database",
        looks_at="the server's version, and whether it is a standby or read-only",
        advice="upgrade it, or give the primary's address",
        probe=lambda patient: patient.database.server(),
        judge=server,
        well=lambda found: f"{found.product} {found.version}, and it can be written to",
    ),
    check(
        "pooler",
        "database",
        looks_at="whether a pooler such as PgBouncer stands between",
        advice="nothing: every pool mode but `statement` will do",
        probe=lambda patient: patient.database.server(),
        judge=lambda _: (),
        well=lambda found: (
            "a pooler stands between: settings of a session do not last, which outbox-relay does"
            " not need; all pool modes but `statement` will do"
            if found.pooled
            else "connected without a pooler, as far as can be told"
        ),
        database="postgresql",
    ),
    check(
        "database-clock",
        "database",
        looks_at="the database's clock against this machine's",
        advice="let both keep time with NTP",
        probe=lambda patient: patient.database.clock(),
        judge=clock,
        well=lambda skew: (
            f"the clocks agree: {skew.ahead_s * 1000:+.0f} ms ± {skew.within_s * 1000:.0f} ms"
        ),
        database="postgresql",
    ),
    check(
        "isolation",
        "database",
        looks_at="`default_transaction_isolation` of server, database and roles",
        advice="set it to `read committed` for the role of the relay",
        probe=lambda patient: patient.postgresql.settings("default_transaction_isolation"),
        judge=isolation,
        well="the default isolation is read committed",
        database="postgresql",
    ),
    check(
        "durable-commits",
        "database",
        looks_at="`synchronous_commit`, `fsync` and `full_page_writes` of server and roles",
        advice="switch them on",
        probe=lambda patient: patient.postgresql.settings(
            "synchronous_commit", "fsync", "full_page_writes"
        ),
        judge=durability,
        well="commits are durable before they are seen",
        database="postgresql",
    ),
    check(
        "replication",
        "database",
        looks_at="standbys that are asynchronous, or synchronous and away",
        advice="name a standby in `synchronous_standby_names`, and keep it running",
        probe=lambda patient: patient.postgresql.replication(),
        judge=replication,
        well=_replication_said,
        database="postgresql",
    ),
    check(
        "prepared-transactions",
        "database",
        looks_at="transactions that were prepared for two-phase commit and forgotten",
        advice="`commit prepared` or `rollback prepared`",
        probe=_transactions,
        judge=prepared,
        well="none is left over",
        database="postgresql",
    ),
    check(
        "long-transactions",
        "database",
        looks_at="transactions that stay open and hold back vacuum",
        advice="end the session",
        probe=_transactions,
        judge=long_transactions,
        well="none is open for long",
        database="postgresql",
    ),
    check(
        "replication-slots",
        "database",
        looks_at="replication slots that nobody uses, or that keep more than 1 GiB of WAL",
        advice="start the consumer, or drop the slot",
        probe=lambda patient: patient.postgresql.slots(),
        judge=slots,
        well=lambda found: f"{len(found)} slots, all in use" if found else "there are none",
        database="postgresql",
    ),
    check(
        "relay-rights",
        "database",
        looks_at="the rights of the relay's role: the connection's, or `--relay-role`",
        advice="`outbox-relay migrate --relay-role ROLE`",
        probe=_relay_rights,
        judge=rights,
        well=lambda answer: f"the relay's role{_name(answer[1])} has all it needs",
        database="postgresql",
    ),
    check(
        "writer-rights",
        "database",
        looks_at="the rights of the application's role, if `--writer-role` names it",
        advice="`outbox-relay migrate --writer-role ROLE`",
        probe=_writer_rights,
        judge=rights,
        well=lambda answer: f"the writer's role{_name(answer[1])} has all it needs",
        database="postgresql",
    ),
    check(
        "journal-mode",
        "database",
        looks_at="the SQLite file's journal mode",
        advice="`pragma journal_mode = wal`",
        probe=lambda patient: patient.sqlite.journal_mode(),
        judge=journal,
        well="the file is in WAL mode",
        database="sqlite",
    ),
)


def _name(role: str | None) -> str:
    return "" if role is None else f" {role}"
