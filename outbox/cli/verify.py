"""outbox-relay verify"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from outbox.cli.exit_codes import CHECK_FAILED
from outbox.cli.options import (
    database_options,
    json_option,
    kafka_option,
    setting,
    settings_from,
)
from outbox.cli.output import print_json, print_table, say
from outbox.cli.times import Moment, shown
from outbox.cli.waiting import patiently

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from outbox.config.settings import Settings
    from outbox.verify.report import Finding, Report, TopicReport
    from outbox.verify.verification import Scope

#: Words about how far it is come this often, in seconds.
_WORDS_EVERY_S = 5.0

EPILOG = """\b
Examples:
  outbox-relay verify
  outbox-relay verify --since 1h --topic orders
  outbox-relay verify --since 2026-11-21T00:00:00Z --until 2026-11-22T00:00:00Z --json
  outbox-relay verify --strict --limit-findings 100"""


@click.command(
    short_help="Compare the log with the topics: missing, repeated, out of order.", epilog=EPILOG
)
@click.option("--topic", "topics", multiple=True, help="One topic only. Repeatable.")
@click.option("--since", type=Moment(), help="Messages written at this time or later.")
@click.option("--until", type=Moment(), help="Messages written before this time.")
@click.option(
    "--isolation",
    type=click.Choice(["read_committed", "read_uncommitted"]),
    default="read_committed",
    show_default=True,
    help="Whether to leave out records of transactions that were aborted.",
)
@click.option(
    "--strict", is_flag=True, help="Exit 6 also for records sent again after an interruption."
)
@click.option(
    "--limit-findings",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    metavar="N",
    help="Show so many of each kind and topic; all are counted.",
)
@json_option
@kafka_option
@setting("name")
@database_options
@click.pass_context
def verify(
    ctx: click.Context,
    /,
    *,
    topics: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    isolation: str,
    strict: bool,
    limit_findings: int,
    as_json: bool,
    **flags: object,
) -> None:
    """Compare the messages that the log keeps with the topics in Kafka.

    Of each message that the relay name has delivered it looks whether it is in its topic, whether
    it is there more than once, and whether each key's messages came in their order. It reads the
    whole of both, and needs disk space for 250 bytes a message and record. The relay may go on
    working meanwhile. Joins no consumer group. Exits 6 if anything is wrong.
    """
    from outbox.verify.verification import Scope

    if since is not None and until is not None and since >= until:
        raise click.BadParameter("must be later than --since", param_hint="--until")
    settings = settings_from(flags)
    scope = Scope(
        relay=settings.name,
        topics=topics,
        since=None if since is None else since.timestamp(),
        until=None if until is None else until.timestamp(),
        limit=limit_findings,
    )
    report = _verified(settings, scope, isolation)
    if as_json:
        _print_json(report, strict=strict)
    else:
        _show(report)
    _say_verdict(report)
    ctx.exit(CHECK_FAILED if report.faults or (strict and report.resent) else 0)


def _verified(settings: Settings, scope: Scope, isolation: str) -> Report:
    from outbox.store.opening import open_retained_log
    from outbox.verify.topic import TopicReader
    from outbox.verify.verification import verify as compare

    kafka = TopicReader(
        settings.kafka_properties(), isolation=isolation, timeout_s=settings.connect_timeout
    )
    log = open_retained_log(
        settings.require_database(),
        settings.names,
        password_callback=settings.password_callback(),
    )
    with closing(log):
        patiently(log.connect, settings.connect_timeout)
        return compare(log, kafka, scope, isolation=isolation, progress=_words())


def _words() -> Callable[[str, int, int | None], None]:
    """Return what says how far it is, now and then."""
    said_at = time.monotonic()

    def progress(what: str, done: int, of: int | None) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= _WORDS_EVERY_S:
            said_at = time.monotonic()
            say(f"read {done}{'' if of is None else f' of {of}'} {what}")

    return progress


def _print_json(report: Report, *, strict: bool) -> None:
    print_json(
        "outbox.verify/1",
        ok=not (report.faults or (strict and report.resent)),
        relay=report.relay,
        isolation=report.isolation,
        since=shown(report.since),
        until=shown(report.until),
        topics=[asdict(topic) for topic in report.topics],
        findings=[asdict(finding) for finding in report.findings],
    )


def _show(report: Report) -> None:
    header = ("TOPIC", "DELIVERED", "FOUND", "MISSING", "OUT OF ORDER", "MISPLACED", "UNKNOWN")
    print_table((*header, "REPEATED", "SENT AGAIN"), [_row(topic) for topic in report.topics])
    for finding in report.findings:
        click.echo(_line(finding))


def _row(topic: TopicReport) -> tuple[object, ...]:
    return (
        topic.topic,
        topic.found + topic.missing + topic.no_longer_there,
        topic.found,
        topic.missing,
        topic.out_of_order,
        topic.misplaced,
        topic.unknown,
        topic.repeated,
        topic.resent,
    )


def _line(finding: Finding) -> str:
    parts = [f"{finding.kind}: message {finding.id or 'with an unknown id'}"]
    if finding.key is not None:
        parts.append(f"key {finding.key!r}")
    parts.append(f"topic {finding.topic}")
    if finding.partition is not None:
        parts.append(f"partition {finding.partition} offset {finding.offset}")
    if finding.seq is not None:
        parts.append(f"seq {finding.seq}")
    return f"{', '.join(parts)}: {finding.what}"


def _say_verdict(report: Report) -> None:
    """Say what the numbers leave out, and whether all is well."""
    for topic in report.topics:
        if words := _asides(topic):
            say(f"topic {topic.topic}: {', '.join(words)}")
    if not report.topics:
        say("the log has no messages that are to be compared")
    elif report.faults:
        say(f"wrong: {report.faults}; shown: {len(report.findings)}")
    else:
        say("nothing is missing, out of order, or there without a reason")


def _asides(topic: TopicReport) -> list[str]:
    """Return what is not wrong, and worth a word."""
    if not topic.messages:
        return ["the log has no messages for it"]
    words = [] if topic.exists else ["does not exist"]
    for count, what in (
        (topic.waiting, "not delivered yet"),
        (topic.held, "held"),
        (topic.expired, "expired before they could be sent"),
        (topic.discarded, "discarded by an operator"),
        (topic.replaced, "replaced by an operator with other messages"),
        (topic.earlier, "written before the relay name began"),
        (topic.no_longer_there, "delivered, and no longer kept by the topic"),
        (topic.resent, "sent again after an interruption, in one piece"),
        (topic.requeued, "sent again on purpose"),
        (topic.foreign, "records of others, or of messages that were not looked at"),
    ):
        if count:
            words.append(f"{count} {what}")
    return words
