"""flask outbox …: the commands of outbox-relay with an app's settings."""

from __future__ import annotations

import copy
import os
import traceback
from typing import Final

import click
from flask.cli import ScriptInfo

from outbox.cli.app import COMMANDS, LazyGroup
from outbox.errors import OutboxError
from outbox.flask.consume import consume
from outbox.flask.host import FlaskInvocation
from outbox.flask.wording import in_flasks_words
from outbox.version import __version__

#: The demo brings databases and a broker of its own, so it has nothing to do with an app.
_OFFERED: Final = [name for name in COMMANDS if name != "demo"]

EPILOG = """\b
Examples:
  flask outbox migrate
  flask outbox run
  flask outbox status
  flask outbox consume shop.billing:handle --topic orders --consumer billing

\b
Exit codes: 0 done, 1 failed, 2 usage, 3 database unreachable, 4 broker unreachable,
5 schema missing or incompatible, 6 a check failed, 78 bad configuration."""


class AppCommands(LazyGroup):
    """The commands that make sense within an app, in its words."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names in the order of use."""
        return [*_OFFERED, "consume"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name == "consume":
            return consume
        command = super().get_command(ctx, cmd_name) if cmd_name in _OFFERED else None
        return None if command is None else _reworded(command)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command and exit with its code; an error of ours becomes one line on stderr."""
        try:
            result: object = super().invoke(ctx)
        except OutboxError as error:
            if ctx.params.get("debug"):
                click.echo(traceback.format_exc(), err=True, nl=False)
            click.echo(f"error: {in_flasks_words(str(error))}", err=True)
            ctx.exit(error.exit_code)
        ctx.exit(result if isinstance(result, int) else 0)


@click.group(
    "outbox",
    cls=AppCommands,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, message="outbox-relay %(version)s")
@click.pass_context
def commands(ctx: click.Context, *, debug: bool) -> None:
    """Move this app's messages to Kafka, and look after its outbox.

    Settings are OUTBOX_… keys of app.config; the database is that of Flask-SQLAlchemy or
    Flask-SQLAlchemy-Lite unless OUTBOX_DATABASE_URL names one.
    """
    script = ctx.find_object(ScriptInfo) or ScriptInfo()
    ctx.obj = FlaskInvocation(script, os.environ, debug=debug)


def _reworded(command: click.Command) -> click.Command:
    reworded = copy.copy(command)
    reworded.epilog = in_flasks_words(command.epilog or "")
    if isinstance(reworded, click.Group):
        reworded.commands = {name: _reworded(inner) for name, inner in reworded.commands.items()}
    return reworded
