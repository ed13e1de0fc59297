"""outbox-relay demo"""

from __future__ import annotations

from dataclasses import asdict

import click

from outbox.cli.options import json_option
from outbox.cli.output import print_json, say

EPILOG = """\b
Examples:
  outbox-relay demo
  outbox-relay demo --json"""


@click.command(short_help="Show the whole way of a message, without servers.", epilog=EPILOG)
@json_option
@click.pass_context
def demo(ctx: click.Context, /, *, as_json: bool) -> None:
    """Show the whole way of a message, with nothing to install or to start.

    A shop writes orders, a relay is killed while it publishes them, and a billing service bills
    each once. Exits 1 if what was promised is not what the databases and the topic hold.
    """
    from outbox.demo.main import run_demo

    verdict = run_demo(say if as_json else click.echo)
    if as_json:
        print_json("outbox.demo/1", ok=not verdict.problems, **asdict(verdict))
    ctx.exit(1 if verdict.problems else 0)
