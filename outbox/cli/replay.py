"""outbox-relay replay"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import click

from outbox.cli.operating import new_action
from outbox.cli.options import (
    database_options,
    json_option,
    kafka_option,
    setting,
    settings_from,
)
from outbox.cli.output import print_json, print_table, say
from outbox.cli.run import publishers
from outbox.cli.stopping import stopped_by_signals
from outbox.cli.times import Moment
from outbox.cli.waiting import patiently
from outbox.errors import OutboxError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from outbox.config.settings import Settings
    from outbox.relay.replay import Order, Replay
    from outbox.store.held import Action
    from outbox.store.retained import RetainedLog, Selection

#: Words about how far it is come this often, in seconds.
_WORDS_EVERY_S = 5.0

EPILOG = """\b
Examples:
  outbox-relay replay --topic orders --since 2h --dry-run
  outbox-relay replay --topic orders --key ada --since 2026-11-21T09:00:00Z
  outbox-relay replay --id 0190163d-8694-739b-aea5-966c26f8ad90 --yes"""


class Resume(click.ParamType[tuple[UUID, int]]):
    """Where an interrupted replay stands, as it said itself."""

    name = "token"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[UUID, int]:
        """Return the undertaking and the number."""
        from outbox.relay.replay import parse_token

        try:
            return parse_token(str(value))
        except ValueError:
            self.fail(f"{value!r} is not what an interrupted replay gave to go on with", param, ctx)


@click.command(short_help="Send delivered messages again.", epilog=EPILOG)
@click.option("--since", type=Moment(), help="Those written at this time or later.")
@click.option("--until", type=Moment(), help="Those written before this time.")
@click.option("--topic", "topics", multiple=True, help="Those of this topic. Repeatable.")
@click.option("--key", "keys", multiple=True, help="Those with this key. Repeatable.")
@click.option("--type", "types", multiple=True, help="Those of this type. Repeatable.")
@click.option(
    "--id", "ids", multiple=True, type=click.UUID, metavar="UUID", help="This one. Repeatable."
)
@click.option(
    "--new-ids", is_flag=True, help="Give them other ids, so that no inbox takes them for known."
)
@click.option(
    "--resume",
    type=Resume(),
    metavar="TOKEN",
    help="Go on with an interrupted replay; with the same options.",
)
@click.option("--dry-run", is_flag=True, help="Say how many there are; send nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@kafka_option
@setting("cloudevents_source")
@setting("cloudevents")
@setting("name")
@database_options
@click.pass_context
def replay(
    ctx: click.Context,
    /,
    *,
    new_ids: bool,
    resume: tuple[UUID, int] | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Send messages again that a relay name has delivered and the log still keeps.

    All that match the options are sent, in the order of the log, with the ids they had: consumers
    with an inbox take no notice, unless --new-ids. They go to the topics of this relay name alone,
    among what its relay sends meanwhile. Says how many and asks first. When it is interrupted, it
    says how to go on.
    """
    from outbox.relay.replay import Order, counted

    selection = _selection(flags)
    settings = settings_from(flags)
    settings.kafka_properties()  # complains before anything is asked
    with closing(_open(settings)) as log:
        patiently(log.connect, settings.connect_timeout)
        run, after = resume or (uuid4(), 0)
        order = Order(log.reach(settings.name), selection, run, new_ids, after)
        counts = counted(log, order)
        if dry_run or not counts:
            _show(order, counts, as_json=as_json, sent=0, dry_run=dry_run, resume=None)
            return
        if not yes:
            _ask(order, counts)
        done = _send(log, settings, order, counts)
        left = _left(done, counts)
        _show(order, counts, as_json=as_json, sent=done.sent, dry_run=False, resume=left)
        ctx.exit(1 if done.sent < counts.total() else 0)


def _selection(flags: dict[str, Any]) -> Selection:
    from outbox.store.retained import Selection

    since, until = flags.pop("since"), flags.pop("until")
    if since is not None and until is not None and since >= until:
        raise click.BadParameter("must be later than --since", param_hint="--until")
    selection = Selection(
        since=None if since is None else since.timestamp(),
        until=None if until is None else until.timestamp(),
        topics=flags.pop("topics"),
        keys=flags.pop("keys"),
        types=flags.pop("types"),
        ids=tuple(map(str, flags.pop("ids"))),
    )
    if not selection.given:
        raise click.UsageError(
            "say which messages: --since, --until, --topic, --key, --type or --id"
        )
    return selection


def _open(settings: Settings) -> Any:
    from outbox.store.opening import open_retained_log

    return open_retained_log(
        settings.require_database(),
        settings.names,
        password_callback=settings.password_callback(),
    )


def _ask(order: Order, counts: Counter[str]) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("there is nobody to ask: give --yes, or --dry-run to count only")
    topics = ", ".join(f"{topic} ({count:,})" for topic, count in sorted(counts.items()))
    ids = "new ids" if order.new_ids else "the ids they had"
    click.confirm(
        f"{_counted(counts.total())} of relay {order.reach.relay}, with {ids}, to {topics}. "
        "Send again?",
        abort=True,
        err=True,
    )


def _send(log: RetainedLog, settings: Settings, order: Order, counts: Counter[str]) -> Replay:
    """Send; note in the audit what is begun, and what came of it."""
    from outbox.relay.replay import Replay, token

    what = {"relay": order.reach.relay, "run": str(order.run), "new_ids": order.new_ids}
    action = new_action("replay", {**what, **order.selection.given, "after": order.after})
    log.note(action, counts.total())
    stop = threading.Event()
    replaying = Replay(
        log,
        # One message after the other, as the relay does at least once: there is no position that
        # could be kept with them.
        publishers(replace(settings, delivery="at-least-once")),
        order,
        settings.connect_timeout,
        progress=_words(order, counts.total()),
    )
    try:
        with stopped_by_signals(stop):
            replaying.run(stop)
    except OutboxError as error:
        raise type(error)(f"{error}. {_how_to_go_on(replaying)}") from error
    finally:
        _note_end(log, action, replaying, token(order.run, replaying.after))
    return replaying


def _note_end(log: RetainedLog, action: Action, done: Replay, after: str) -> None:
    """Note what was sent; a database that is away now must not hide why it ended."""
    try:
        log.note(replace(action, what={**action.what, "ended_at": after}), done.sent)
    except OutboxError as error:
        say(f"the end of this replay could not be noted in the audit: {error}")


def _words(order: Order, total: int) -> Callable[[int, int], None]:
    """Return what says how far it is, now and then."""
    from outbox.relay.replay import token

    said_at = time.monotonic()

    def progress(sent: int, after: int) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= _WORDS_EVERY_S:
            said_at = time.monotonic()
            where = token(order.run, after)
            say(f"sent {sent:,} of {total:,}; to go on from here: --resume {where}")

    return progress


def _left(done: Replay, counts: Counter[str]) -> str | None:
    """Return what to go on with, None where nothing is left."""
    from outbox.relay.replay import token

    return token(done.order.run, done.after) if done.sent < counts.total() else None


def _how_to_go_on(done: Replay) -> str:
    from outbox.relay.replay import token

    where = token(done.order.run, done.after)
    return f"{_counted(done.sent)} were sent; go on with the same options and --resume {where}"


def _show(
    order: Order,
    counts: Counter[str],
    *,
    as_json: bool,
    sent: int,
    dry_run: bool,
    resume: str | None,
) -> None:
    if as_json:
        print_json(
            "outbox.replay/1",
            relay=order.reach.relay,
            run=str(order.run),
            dry_run=dry_run,
            new_ids=order.new_ids,
            matching=counts.total(),
            topics=dict(sorted(counts.items())),
            sent=sent,
            resume=resume,
        )
    elif dry_run:
        print_table(("TOPIC", "MESSAGES"), sorted(counts.items()))
    if not counts:
        say(f"relay {order.reach.relay} has delivered nothing that matches and is still kept")
    elif dry_run:
        say(f"{_counted(counts.total())} would be sent again")
    else:
        say(f"sent {_counted(sent)} again")
    if resume is not None:
        left = _counted(counts.total() - sent)
        say(
            f"{left} are left, unless the log no longer keeps them; go on with the same options and"
            f" --resume {resume}"
        )


def _counted(count: int) -> str:
    return f"{count:,} message{'' if count == 1 else 's'}"
