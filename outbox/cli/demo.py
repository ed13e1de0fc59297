"""outbox-relay demo"""

from __future__ import annotations

import click

EPILOG = """\b
Example:
  outbox-relay demo"""


@click.command(epilog=EPILOG)
def demo() -> None:
    """Show the whole way of a message, with nothing to install or to start."""
    from outbox.demo.main import run_demo

    run_demo()
