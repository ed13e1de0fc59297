"""outbox-relay healthcheck"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import click

from outbox.cli.exit_codes import CHECK_FAILED
from outbox.cli.options import config_option, setting, settings_from
from outbox.cli.output import say
from outbox.errors import ConfigurationError

if TYPE_CHECKING:
    from outbox.config.settings import Settings

EPILOG = """\b
Examples:
  outbox-relay healthcheck
  outbox-relay healthcheck ready --http-port 9464"""


@click.command(epilog=EPILOG)
@click.argument("question", type=click.Choice(["live", "ready"]), default="live")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=3.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the answer.",
)
@setting("http_port")
@setting("http_host")
@config_option
@click.pass_context
def healthcheck(ctx: click.Context, /, *, question: str, timeout: float, **flags: object) -> None:
    """Ask the relay on this machine whether it is alive, or ready.

    Exits with 0 if it is and 6 if it is not. Alive is a relay whose loop goes round, be its servers
    away or not; ready is one that has found its tables as they should be and is not stopping.
    """
    from outbox.http.probe import probe

    settings = settings_from(flags)
    port = _port(settings)
    verdict = probe(settings.http_host, port, cast("Literal['live', 'ready']", question), timeout)
    if not verdict.ok:
        say(f"not {question}: {verdict.reason}")
        ctx.exit(CHECK_FAILED)


def _port(settings: Settings) -> int:
    if not settings.http_port:
        raise ConfigurationError(
            "no port to ask: give the --http-port (or OUTBOX_HTTP_PORT) that `outbox-relay run` has"
        )
    return settings.http_port
