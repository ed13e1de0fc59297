"""outbox-relay lanes"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from outbox.cli.options import database_options, json_option, settings_from
from outbox.cli.output import print_json, print_table, say
from outbox.cli.waiting import connected_store
from outbox.errors import ConfigurationError
from outbox.store.lanes import DEFAULT_LANE, Lane, declared, removed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from outbox.store.base import StoreAdmin

EPILOG = """\b
Examples:
  outbox-relay lanes list
  outbox-relay lanes declare urgent --priority 10
  outbox-relay lanes declare bulk --priority -10 --shards 4
  outbox-relay lanes remove bulk
  outbox-relay lanes apply"""


@click.group(epilog=EPILOG)
def lanes() -> None:
    """Show and change the lanes of the log, while it is written to and relayed.

    A lane is an ordered stream within the log. Those with a higher priority are served first; the
    shards of a lane can be served by several processes. Order is kept for each lane, topic and key,
    through every change.
    """


@lanes.command("list", epilog="\b\nExample:\n  outbox-relay lanes list --json")
@json_option
@database_options
def list_lanes(*, as_json: bool, **flags: object) -> None:
    """Print the lanes."""
    with connected_store(settings_from(flags)) as store:
        found = _by_rank(store.lanes())
    if as_json:
        print_json("outbox.lanes/1", lanes=[asdict(lane) for lane in found])
        return
    print_table(
        ("LANE", "PRIORITY", "SHARDS"), [(lane.name, lane.priority, lane.shards) for lane in found]
    )


@lanes.command(epilog="\b\nExample:\n  outbox-relay lanes declare bulk --priority -10 --shards 4")
@click.argument("name")
@click.option("--priority", type=int, help="Higher is served first; 0 where nothing is said.")
@click.option("--shards", type=int, help="Streams to spread its keys over; 1 at first.")
@database_options
def declare(*, name: str, priority: int | None, shards: int | None, **flags: object) -> None:
    """Add the lane NAME, or change it; `default` is there from the beginning."""
    with connected_store(settings_from(flags)) as store:
        known = _by_name(store)
        lane = known.get(name) or Lane(name)
        if priority is not None:
            lane = replace(lane, priority=priority)
        if shards is not None:
            lane = replace(lane, shards=shards)
        _change(store, known, declared(known, lane))


@lanes.command(epilog="\b\nExample:\n  outbox-relay lanes remove bulk")
@click.argument("name")
@database_options
def remove(*, name: str, **flags: object) -> None:
    """Remove the lane NAME; what names it goes by `default` from now on."""
    with connected_store(settings_from(flags)) as store:
        known = _by_name(store)
        _change(store, known, removed(known, name))


@lanes.command(epilog="\b\nExample:\n  outbox-relay lanes apply --dry-run")
@click.option("--dry-run", is_flag=True, help="Say what would change; change nothing.")
@database_options
def apply(*, dry_run: bool, **flags: object) -> None:
    """Make the lanes those of the settings: the tables [lanes.NAME] of outbox.toml."""
    settings = settings_from(flags)
    if not settings.lanes:
        raise ConfigurationError(
            "no lanes are given: write a table such as [lanes.urgent] with priority = 10 into"
            " outbox.toml"
        )
    wanted = {DEFAULT_LANE: Lane(DEFAULT_LANE)}
    wanted |= {each.name: Lane(each.name, each.priority, each.shards) for each in settings.lanes}
    with connected_store(settings) as store:
        _change(store, _by_name(store), list(wanted.values()), dry_run=dry_run)


def _by_name(store: StoreAdmin) -> Mapping[str, Lane]:
    return {lane.name: lane for lane in store.lanes()}


def _change(
    store: StoreAdmin, known: Mapping[str, Lane], wanted: Sequence[Lane], *, dry_run: bool = False
) -> None:
    differences = _differences(known, {lane.name: lane for lane in wanted})
    if differences and not dry_run:
        store.change_lanes(wanted)
    for difference in differences or ["nothing to change"]:
        say(difference)


def _differences(known: Mapping[str, Lane], wanted: Mapping[str, Lane]) -> list[str]:
    """Return what a change does, lane by lane.

    >>> _differences({}, {"bulk": Lane("bulk", -10, 4)})
    ['lane bulk: declared, priority -10, 4 shards']
    """
    added = [
        f"lane {lane.name}: {'changed to' if name in known else 'declared,'} {_shape(lane)}"
        for name, lane in wanted.items()
        if known.get(name) != lane
    ]
    gone = [f"lane {name}: removed" for name in known if name not in wanted]
    return added + gone


def _shape(lane: Lane) -> str:
    return f"priority {lane.priority}, {lane.shards} shard{'' if lane.shards == 1 else 's'}"


def _by_rank(found: Sequence[Lane]) -> list[Lane]:
    return sorted(found, key=lambda lane: (-lane.priority, lane.name))
