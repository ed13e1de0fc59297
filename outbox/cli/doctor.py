"""outbox-relay doctor"""

from __future__ import annotations

import os
import sys
from collections import Counter
from contextlib import closing
from dataclasses import asdict, replace
from itertools import groupby
from typing import TYPE_CHECKING

import click

from outbox.cli.exit_codes import CHECK_FAILED
from outbox.cli.options import (
    database_options,
    json_option,
    kafka_option,
    reworded,
    setting,
    settings_from,
)
from outbox.cli.output import print_json, print_table, say
from outbox.cli.waiting import patiently
from outbox.errors import SchemaMissing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from outbox.doctor.check import Finding, Outcome
    from outbox.doctor.patient import Patient

_MARKS: dict[Outcome, str] = {"ok": "✓", "warning": "!", "failed": "✗", "skipped": "-"}
_COLOURS: dict[Outcome, str] = {"ok": "green", "warning": "yellow", "failed": "red"}

EPILOG = """\b
Examples:
  outbox-relay doctor
  outbox-relay doctor -X bootstrap.servers=localhost:9092 --writer-role shop
  outbox-relay doctor --json --strict --ignore topic-durability
  outbox-relay doctor --list"""


@click.command(epilog=EPILOG)
@click.option("--strict", is_flag=True, help="Exit 6 for warnings too.")
@click.option(
    "--ignore",
    multiple=True,
    metavar="ID",
    help="Leave out a check; --list names them. Repeatable.",
)
@click.option("--list", "as_list", is_flag=True, help="Print all checks; connect nowhere.")
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Speak of transactions that have been open for longer.",
)
@click.option("--writer-role", metavar="ROLE", help="Look at the rights of the application's role.")
@click.option(
    "--relay-role", metavar="ROLE", help="Look at the rights of this role, not of the connection's."
)
@json_option
@kafka_option
@setting("lease")
@setting("poll_interval")
@setting("name")
@database_options
@click.pass_context
def doctor(
    ctx: click.Context,
    /,
    *,
    strict: bool,
    ignore: tuple[str, ...],
    as_list: bool,
    older_than: float,
    writer_role: str | None,
    relay_role: str | None,
    as_json: bool,
    **flags: object,
) -> None:
    """Look for what is wrong, and say what to do.

    Looks at the settings, the database, the log, the relays, the broker and tracing. Leaves nothing
    behind in the database or the broker, and gives up a question that takes the database more than
    a few seconds. Exits 6 if a check failed.
    """
    from outbox.doctor.examination import examine
    from outbox.doctor.patient import Patient

    _refuse_unknown(ignore)
    if as_list:
        _list(as_json=as_json)
        return
    patient = Patient(
        settings_from(flags),
        older_than_s=older_than,
        writer_role=writer_role,
        relay_role=relay_role,
    )
    with closing(patient):
        _connect(patient)
        examined = (
            replace(finding, advice=reworded(finding.advice))
            for finding in examine(patient, ignore)
        )
        findings = list(_shown(examined, quiet=as_json))
    if as_json:
        _print_json(findings)
    _say_counts(findings)
    ctx.exit(_verdict(findings, strict=strict))


def _refuse_unknown(ignored: Iterable[str]) -> None:
    from outbox.doctor.registry import CHECKS

    known = [check.id for check in CHECKS]
    for name in ignored:
        if name not in known:
            raise click.BadParameter(
                f"{name!r} is no check; known are {', '.join(known)}", param_hint="--ignore"
            )


def _connect(patient: Patient) -> None:
    try:
        patiently(patient.database.connect, patient.settings.connect_timeout)
    except SchemaMissing:
        # A SQLite file that is not there yet: the checks say so, and go on to the broker.
        return


def _list(*, as_json: bool) -> None:
    from outbox.doctor.registry import CHECKS

    rows = [(each.id, each.group, each.looks_at, each.advice) for each in CHECKS]
    if as_json:
        names = ("id", "group", "looks_at", "advice")
        print_json(
            "outbox.doctor-checks/1", checks=[dict(zip(names, row, strict=True)) for row in rows]
        )
        return
    print_table(("CHECK", "GROUP", "LOOKS AT", "WHAT TO DO"), rows)


def _shown(findings: Iterable[Finding], *, quiet: bool) -> Iterator[Finding]:
    """Print findings as they come: some take seconds, and nobody should wonder."""
    for group, members in groupby(findings, key=lambda finding: finding.group):
        if not quiet:
            click.echo(_styled(group, bold=True))
        left_out: list[Finding] = []
        for finding in members:
            if finding.outcome == "skipped":
                left_out.append(finding)
            elif not quiet:
                click.echo(_line(finding, finding.check))
            yield finding
        if not quiet:
            _show_skipped(left_out)


def _show_skipped(findings: list[Finding]) -> None:
    """Print what was skipped, one line a reason."""
    for reason in dict.fromkeys(finding.found for finding in findings):
        alike = [finding for finding in findings if finding.found == reason]
        click.echo(_line(alike[0], ", ".join(finding.check for finding in alike)))


def _line(finding: Finding, checks: str) -> str:
    mark = _MARKS[finding.outcome] if _is_for_people() else f"{finding.outcome:7}"
    arrow = "→" if _is_for_people() else "->"
    advice = f" {arrow} {finding.advice}" if finding.advice else ""
    mark = _styled(mark, fg=_COLOURS.get(finding.outcome))
    return f"  {mark} {checks}: {' '.join((finding.found + advice).split())}"


def _styled(text: str, *, fg: str | None = None, bold: bool = False) -> str:
    plain = os.environ.get("NO_COLOR") or not (fg or bold)
    return text if plain else click.style(text, fg=fg, bold=bold or None)


def _is_for_people() -> bool:
    """Whether signs will be understood: a terminal that can show them."""
    encoding = (getattr(sys.stdout, "encoding", None) or "").lower()
    return sys.stdout.isatty() and encoding.startswith("utf")


def _print_json(findings: list[Finding]) -> None:
    counts = Counter(finding.outcome for finding in findings)
    print_json(
        "outbox.doctor/1",
        ok=not counts["failed"],
        failed=counts["failed"],
        warnings=counts["warning"],
        skipped=counts["skipped"],
        findings=[asdict(finding) for finding in findings],
    )


def _say_counts(findings: list[Finding]) -> None:
    counts = Counter(finding.outcome for finding in findings)
    parts = [f"{counts[outcome]} {outcome}" for outcome in ("failed", "warning", "ok", "skipped")]
    say(", ".join(parts))


def _verdict(findings: list[Finding], *, strict: bool) -> int:
    serious = ("failed", "warning") if strict else ("failed",)
    return CHECK_FAILED if any(finding.outcome in serious for finding in findings) else 0
