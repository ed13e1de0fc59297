"""The group of all commands, and what becomes of errors."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any, cast

import click

from outbox.cli.invocation import Invocation
from outbox.config.host import NO_HOST, HostSettings
from outbox.errors import OutboxError
from outbox.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Where each command lives; it is imported when it is asked for.
COMMANDS = {
    "run": "outbox.cli.run:run",
    "migrate": "outbox.cli.migrate:migrate",
    "status": "outbox.cli.status:status",
    "healthcheck": "outbox.cli.healthcheck:healthcheck",
    "doctor": "outbox.cli.doctor:doctor",
    "relays": "outbox.cli.relays:relays",
    "lanes": "outbox.cli.lanes:lanes",
    "pause": "outbox.cli.pauses:pause",
    "resume": "outbox.cli.pauses:resume",
    "paused": "outbox.cli.pauses:paused",
    "scheduled": "outbox.cli.scheduled:scheduled",
    "held": "outbox.cli.held:held",
    "audit": "outbox.cli.audit:audit",
    "prune": "outbox.cli.prune:prune",
    "verify": "outbox.cli.verify:verify",
    "replay": "outbox.cli.replay:replay",
    "bench": "outbox.cli.bench:bench",
    "config": "outbox.cli.config:config",
    "demo": "outbox.cli.demo:demo",
}

EPILOG = """\b
Examples:
  outbox-relay migrate --database-url postgresql://localhost/shop
  outbox-relay run --database-url postgresql://localhost/shop -X bootstrap.servers=localhost:9092
  outbox-relay status

\b
Exit codes: 0 done, 1 failed, 2 usage, 3 database unreachable, 4 broker unreachable,
5 schema missing or incompatible, 6 a check failed, 78 bad configuration;
128 and the signal's number after a second signal."""


#: What every command has, also one that runs without the group.
CONTEXT_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
}


class LazyGroup(click.Group):
    """A group that imports a command when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names in the order of use, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        return cast("click.Command", getattr(importlib.import_module(module), name))


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings=CONTEXT_SETTINGS,
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, message="outbox-relay %(version)s")
@click.pass_obj
def app(invocation: Invocation, *, debug: bool) -> None:
    """Move messages from a database's outbox to Kafka, in order, nothing lost."""
    invocation.debug = debug


def run(
    arguments: Sequence[str] | None = None,
    *,
    host: HostSettings = NO_HOST,
    program: str = "outbox-relay",
    command: str | None = None,
) -> int:
    """Run a command and return its exit code; every error becomes one line on stderr.

    The rest is for frameworks that run commands under names of their own: with `command` the
    arguments are those of this command, and `program` is what it is called.
    """
    invocation = Invocation(host=host)
    try:
        result = _command(command).main(
            args=None if arguments is None else list(arguments),
            prog_name=program,
            standalone_mode=False,
            obj=invocation,
            **CONTEXT_SETTINGS,
        )
        if sys.stdout is not None:  # None where our caller has closed it
            sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("aborted", err=True)
        return 1
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OutboxError as error:
        _say(error, host, with_traceback=invocation.debug)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the last resort: say it and exit 1
        _say(error, host, with_traceback=True)
        return 1


def _command(name: str | None) -> click.Command:
    found = app if name is None else app.get_command(click.Context(app), name)
    if found is None:
        raise click.UsageError(f"this version has no command {name!r}")
    return found


def _say(error: Exception, host: HostSettings, *, with_traceback: bool) -> None:
    if with_traceback:
        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    text = str(error) if isinstance(error, OutboxError) else f"{type(error).__name__}: {error}"
    click.echo(f"error: {host.reword(text)}", err=True)
