"""outbox-relay held edit"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from outbox.cli.held_choice import checked_id, held_admin, relay_option
from outbox.cli.operating import new_action
from outbox.cli.options import database_options, json_option, settings_from
from outbox.cli.output import print_json, print_table, say
from outbox.cli.waiting import connected_store
from outbox.errors import InvalidMessage, OutboxError
from outbox.store.held import Edition, HeldFilter

if TYPE_CHECKING:
    from outbox.record import Record
    from outbox.store.held import HeldAdmin, HeldMessage
    from outbox.writer.editing import Changes

EPILOG = """\b
Examples:
  outbox-relay held edit 018f3f1e-0000-7000-8000-000000000001 --payload-file - --yes
  outbox-relay held edit 018f3f1e-0000-7000-8000-000000000001 --topic orders.large --dry-run
  outbox-relay held edit 018f3f1e-0000-7000-8000-000000000001 --header region=eu --yes"""


def _headers(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> Any:
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE")
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice")
        found[name] = value
    return found


@click.command(epilog=EPILOG)
@click.argument("id_", metavar="UUID")
@click.option("--payload", metavar="TEXT", help="The payload, as text (UTF-8).")
@click.option(
    "--payload-file",
    type=click.Path(exists=True, dir_okay=False, readable=True, allow_dash=True),
    metavar="FILE",
    help="The payload, byte by byte what is in a file; - for stdin.",
)
@click.option("--topic", metavar="TOPIC", help="Send it to this topic.")
@click.option("--key", metavar="KEY", help="Send it with this key.")
@click.option("--type", "type_", metavar="TYPE", help="The type.")
@click.option("--content-type", metavar="TYPE", help="The content type.")
@click.option(
    "--header",
    "headers",
    multiple=True,
    callback=_headers,
    metavar="NAME=VALUE",
    help="A header, in place of those of its name. Repeatable.",
)
@click.option(
    "--remove-header", "without", multiple=True, metavar="NAME", help="Leave it out. Repeatable."
)
@click.option("--clear-headers", "clear", is_flag=True, help="Leave out all that it has.")
@click.option(
    "--position", type=int, metavar="SEQ", help="Which one, where several have the same id."
)
@relay_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Say what would go instead; change nothing.")
@json_option
@database_options
def edit(
    *,
    id_: str,
    relay: str,
    position: int | None,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Send another message in place of one that is dead or expired.

    It has an id of its own, and the header outbox-edited-from with the id of the one that it
    replaces, which is never sent. It takes its place in the order of the key and is tried at once;
    what is blocked behind it follows. With another topic or key it has no order with what is there,
    and what was blocked goes on. What is not given stays as it is. One message at a time.
    """
    from outbox.writer.editing import edited

    if given["payload_file"] == "-" and not (yes or dry_run):
        raise click.UsageError("stdin is the payload, so nobody can be asked: give --yes")
    changes = _changes(given)
    with connected_store(settings_from(given)) as store:
        admin = held_admin(store, relay)
        which = _the_one(admin, relay, checked_id(id_), position)
        old = admin.content(relay, which.seq)
        if old is None:  # it went this moment
            raise _not_there(relay, id_)
        try:
            new = edited(old, changes)
        except InvalidMessage as error:
            raise click.UsageError(str(error)) from error
        if not (dry_run or yes):
            _show_change(old, new)
            click.confirm("replace it?", abort=True, err=True)
        if not dry_run:
            what = {"relay": relay, "id": which.id, "changed": _changed(old, new)}
            if not admin.edit(which, relay, new, new_action("held edit", what)):
                raise OutboxError(
                    f"message {id_} is no longer dead: it was requeued, edited or discarded "
                    "meanwhile; nothing was changed"
                )
    _tell(which, old, new, dry_run=dry_run, as_json=as_json)


def _changes(given: dict[str, Any]) -> Changes:
    from outbox.writer.editing import Changes

    payload = _payload(given.pop("payload"), given.pop("payload_file"))
    names = ("topic", "key", "content_type", "headers", "without", "clear")
    own = {name: given.pop(name) for name in names}
    changes = Changes(payload=payload, type=given.pop("type_"), **own)
    if changes == Changes(headers={}):
        raise click.UsageError("say what is to be changed: --payload, --topic, --header, …")
    return changes


def _payload(text: str | None, file: str | None) -> bytes | None:
    if text is not None and file is not None:
        raise click.UsageError("give --payload or --payload-file, not both")
    if text is not None:
        return _encoded(text)
    if file is None:
        return None
    with click.open_file(file, "rb") as opened:
        data: bytes = opened.read()
    return data


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:  # bytes of the command line that are no text
        raise click.UsageError("--payload is not UTF-8: give it as --payload-file") from error


def _the_one(admin: HeldAdmin, relay: str, id_: str, position: int | None) -> HeldMessage:
    """Return the message that is meant, if it is one that no relay may be sending just now."""
    found = admin.find(HeldFilter(relay, id=id_), 100)
    if position is not None:
        found = [message for message in found if message.seq == position]
    if not found:
        raise _not_there(relay, id_)
    if len(found) > 1:
        places = ", ".join(str(message.seq) for message in found)
        raise click.UsageError(f"several messages have this id: say --position, of {places}")
    (message,) = found
    if message.state not in ("dead", "expired"):
        raise click.ClickException(
            f"message {id_} is {message.state}, and may go any moment as it is; only what is dead "
            "or expired can be edited"
        )
    return message


def _not_there(relay: str, id_: str) -> click.ClickException:
    return click.ClickException(f"relay {relay} holds no message {id_}")


def _changed(old: Record, new: Edition) -> list[str]:
    """Return the names of what is different, for the audit: contents are nobody's business."""
    before = replace(
        new,
        topic=old.topic,
        key=old.key,
        payload=old.payload,
        type=old.type,
        content_type=old.content_type,
        headers=old.headers or "",
    )
    names = asdict(new).keys() - {"id"}
    return sorted(name for name in names if getattr(before, name) != getattr(new, name))


def _rows(old: Record, new: Edition) -> list[tuple[str, object, object]]:
    """Return what is compared: everything but the payload, of which the size is told."""
    sizes = (len(old.payload or b""), len(new.payload or b""))
    names = ("id", "topic", "key", "type", "content_type", "headers")
    pairs = [(name, getattr(old, name), getattr(new, name)) for name in names]
    return [*pairs, ("payload bytes", *sizes)]


def _show_change(old: Record, new: Edition) -> None:
    for name, before, after in _rows(old, new):
        if before != after:
            say(f"{name}: {'-' if before is None else before} -> {after}")
    if old.payload != new.payload:
        say("the payload is another one")


def _tell(which: HeldMessage, old: Record, new: Edition, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        told = {"id": new.id, "topic": new.topic, "key": new.key, "bytes": len(new.payload or b"")}
        print_json(
            "outbox.held.edit/1",
            position=which.seq,
            replaces=which.id,
            message=told,
            changes=_changed(old, new),
            changed=0 if dry_run else 1,
        )
    elif dry_run:
        header = ("FIELD", "NOW", "THEN")
        print_table(
            header, [tuple("-" if v is None else v for v in row) for row in _rows(old, new)]
        )
        say("nothing was changed; the id will be another one")
    else:
        click.echo(new.id)
        say(f"{new.id} goes in place of {which.id}")
