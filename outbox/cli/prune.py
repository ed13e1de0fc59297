"""outbox-relay prune"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from outbox.cli.options import database_options, json_option, settings_from
from outbox.cli.output import duration, print_json, print_table
from outbox.cli.waiting import connected_store

if TYPE_CHECKING:
    from outbox.store.base import Slice

EPILOG = """\b
Examples:
  outbox-relay prune --dry-run
  outbox-relay prune
  outbox-relay migrate --retention 7d"""

_MIB = 1024 * 1024


@click.command(
    short_help="Remove delivered messages that are older than the retention.", epilog=EPILOG
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed; remove nothing.")
@json_option
@database_options
def prune(*, dry_run: bool, as_json: bool, **flags: object) -> None:
    """Remove messages that every relay name has delivered and that are older than the retention.

    A running relay does this by itself. Nothing is removed that was not delivered; a part of the
    log that somebody is using stays until the next time.
    """
    with connected_store(settings_from(flags)) as store:
        slices = store.prune(dry_run=dry_run)
    if as_json:
        print_json("outbox.prune/1", dry_run=dry_run, slices=[asdict(part) for part in slices])
        return
    done = "would be removed" if dry_run else "removed"
    print_table(("PART", "SIZE", "NEWEST", ""), [_row(part, done) for part in slices])


def _row(part: Slice, done: str) -> tuple[str, ...]:
    age = part.newest_age_seconds
    return (
        part.name,
        f"{part.bytes / _MIB:.1f} MiB",
        "-" if age is None else f"{duration(age)} ago",
        done if part.kept is None else f"stays: {part.kept}",
    )
