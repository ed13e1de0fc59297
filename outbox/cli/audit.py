"""outbox-relay audit"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime

import click

from outbox.cli.options import database_options, json_option, settings_from
from outbox.cli.output import print_json, print_table
from outbox.cli.waiting import connected_store


@click.group(epilog="\b\nExample:\n  outbox-relay audit list --limit 20")
def audit() -> None:
    """See what operators did to messages."""


@audit.command("list", epilog="\b\nExample:\n  outbox-relay audit list --json")
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="How many at the most.",
)
@json_option
@database_options
def list_actions(*, limit: int, as_json: bool, **flags: object) -> None:
    """Print who did what, when, and to how many messages, the latest first."""
    with connected_store(settings_from(flags)) as store:
        actions = store.held_admin().audit(limit)
    if as_json:
        print_json("outbox.audit/1", actions=[asdict(action) for action in actions])
        return
    rows = [
        (
            datetime.fromtimestamp(action.at, UTC).strftime("%Y-%m-%d %H:%M:%SZ"),
            f"{action.actor}@{action.source.split()[0]}",
            action.command,
            action.messages,
            json.dumps(action.what, ensure_ascii=False),
        )
        for action in actions
    ]
    print_table(("WHEN", "WHO", "COMMAND", "MESSAGES", "WHAT"), rows)
