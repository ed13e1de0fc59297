"""outbox-relay config"""

from __future__ import annotations

import click

from outbox.cli.options import database_options, json_option, kafka_option, setting, settings_from
from outbox.cli.output import print_json, print_table

EPILOG = """\b
Examples:
  outbox-relay config show
  outbox-relay config show --json"""


@click.group(epilog=EPILOG)
def config() -> None:
    """Look at the settings."""


@config.command(epilog=EPILOG)
@json_option
@kafka_option
@setting("cloudevents_source")
@setting("cloudevents")
@setting("drain_timeout")
@setting("lease")
@setting("wake_up")
@setting("poll_interval")
@setting("delivery")
@setting("name")
@database_options
def show(*, as_json: bool, **flags: object) -> None:
    """Print every setting, its value and where it came from; secrets are hidden."""
    shown = settings_from(flags).shown()
    if as_json:
        print_json(
            "outbox.config/1",
            settings={name: {"value": value, "source": source} for name, value, source in shown},
        )
        return
    rows = [
        (name, "(not set)" if value is None else value, source) for name, value, source in shown
    ]
    print_table(("SETTING", "VALUE", "SOURCE"), rows)
