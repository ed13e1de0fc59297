"""outbox-relay migrate"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from outbox import migrations
from outbox.cli.exit_codes import CHECK_FAILED
from outbox.cli.options import Duration, database_options, json_option, settings_from
from outbox.cli.output import duration, print_json, say
from outbox.cli.waiting import connected_store, loaded_database, patiently

if TYPE_CHECKING:
    from outbox.config.settings import Settings
    from outbox.database import Dialect

EPILOG = """\b
Examples:
  outbox-relay migrate --database-url postgresql://localhost/shop
  outbox-relay migrate --writer-role shop --relay-role relay
  outbox-relay migrate --sql --dialect postgresql --schema events
  outbox-relay migrate --retention 7d
  outbox-relay migrate --backlog-limit 100000 --backlog-action raise
  outbox-relay migrate --check
  outbox-relay migrate --rebase"""


@click.command(epilog=EPILOG)
@click.option(
    "--sql", "as_sql", is_flag=True, help="Print the SQL; change nothing, connect nowhere."
)
@click.option(
    "--check",
    "as_check",
    is_flag=True,
    help="Compare the tables with what they should be; exit 6 if they differ.",
)
@click.option(
    "--rebase",
    "as_rebase",
    is_flag=True,
    help="Repair the cursors after dump and restore. Stop the relays first.",
)
@click.option("--only", type=click.Choice(["outbox", "inbox"]), help="One side only.")
@click.option(
    "--writer-role", metavar="ROLE", help="Grant what an application needs to write messages."
)
@click.option("--relay-role", metavar="ROLE", help="Grant what the relay needs.")
@click.option(
    "--retention",
    type=Duration(),
    metavar="TIME",
    help="How long delivered messages are kept, such as 12h or 7d. First set to 1d.",
)
@click.option(
    "--backlog-limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many messages may wait before writers warn or refuse. At first there is no limit.",
)
@click.option(
    "--backlog-action",
    type=click.Choice(["warn", "raise", "off"]),
    help="What writers do at the limit: warn, or raise BacklogFull. off takes the limit away.",
)
@click.option(
    "--dialect", type=click.Choice(["postgresql", "sqlite"]), help="For --sql without a database."
)
@json_option
@database_options
@click.pass_context
def migrate(
    ctx: click.Context,
    /,
    *,
    as_sql: bool,
    as_check: bool,
    as_rebase: bool,
    only: migrations.Component | None,
    writer_role: str | None,
    relay_role: str | None,
    retention: int | None,
    backlog_limit: int | None,
    backlog_action: str | None,
    dialect: Dialect | None,
    as_json: bool,
    **flags: object,
) -> None:
    """Create or upgrade the tables.

    Runs in one transaction, does nothing where nothing is to be done, and may be run by several
    processes at once.
    """
    if as_sql + as_check + as_rebase > 1:
        raise click.UsageError("use one of --sql, --check and --rebase")
    backlog = _backlog(backlog_limit, backlog_action)
    if only == "inbox" and (as_rebase or writer_role or relay_role or retention or backlog):
        raise click.UsageError(
            "--only inbox has nothing to do with --rebase, --retention, --backlog-limit and the"
            " roles"
        )
    if as_sql and as_json:
        raise click.UsageError("--sql prints SQL and no JSON: leave out --json")
    if retention and (as_sql or as_check or as_rebase):
        raise click.UsageError("--retention goes with none of --sql, --check and --rebase")
    if backlog and (as_sql or as_check or as_rebase):
        raise click.UsageError("--backlog-limit goes with none of --sql, --check and --rebase")
    settings = settings_from(flags)
    roles = {"writer_role": writer_role, "relay_role": relay_role}
    if as_sql:
        chosen = dialect or _dialect(settings)
        click.echo(migrations.sql(chosen, settings.names, only=only, **roles), nl=False)
    elif as_check:
        ctx.exit(_check(settings, only, as_json=as_json))
    elif as_rebase:
        _rebase(settings, as_json=as_json)
    else:
        _migrate(settings, only, roles, retention, backlog, as_json=as_json)


def _backlog(limit: int | None, action: str | None) -> migrations.BacklogLimit | None:
    """Return the limit that is asked for, None where nothing is said of it."""
    if limit is None and action is None:
        return None
    if (action == "off") == (limit is not None):
        raise click.UsageError(
            "give --backlog-limit N, with --backlog-action warn or raise, or --backlog-action off"
        )
    if limit is None:
        return migrations.NO_LIMIT
    return migrations.BacklogLimit(limit, "raise" if action == "raise" else "warn")


def _dialect(settings: Settings) -> Dialect:
    return settings.database_url.dialect if settings.database_url else "postgresql"


def _migrate(
    settings: Settings,
    only: migrations.Component | None,
    roles: dict[str, str | None],
    retention: int | None,
    backlog: migrations.BacklogLimit | None,
    *,
    as_json: bool,
) -> None:
    url, password_callback = loaded_database(settings), settings.password_callback()
    applied = patiently(
        lambda: migrations.migrate(
            url,
            settings.names,
            only=only,
            retention_s=retention,
            backlog=backlog,
            password_callback=password_callback,
            **roles,
        ),
        settings.connect_timeout,
    )
    if backlog and backlog.messages:
        with connected_store(settings) as store:
            store.count_backlog()
    names = [step.name for step in applied]
    if as_json:
        print_json("outbox.migrate/1", applied=names)
        return
    say(f"applied {', '.join(names)}" if names else "nothing to do: the tables are up to date")
    if retention:
        say(f"delivered messages are kept for {duration(retention)}")
    if backlog:
        say(_told(backlog))


def _told(backlog: migrations.BacklogLimit) -> str:
    if backlog.messages is None:
        return "writers go by no limit of the backlog"
    does = "refuse" if backlog.action == "raise" else "warn"
    return f"writers {does} when {backlog.messages} messages wait"


def _check(settings: Settings, only: migrations.Component | None, *, as_json: bool) -> int:
    url, password_callback = loaded_database(settings), settings.password_callback()
    findings = patiently(
        lambda: migrations.check(
            url, settings.names, only=only, password_callback=password_callback
        ),
        settings.connect_timeout,
    )
    if as_json:
        print_json("outbox.check/1", findings=[asdict(finding) for finding in findings])
    for finding in findings if not as_json else ():
        click.echo(f"{finding.component}: {finding.problem}")
    if not findings:
        say("the tables are as they should be")
    return CHECK_FAILED if findings else 0


def _rebase(settings: Settings, *, as_json: bool) -> None:
    url, password_callback = loaded_database(settings), settings.password_callback()
    done = patiently(
        lambda: migrations.rebase(url, settings.names, password_callback=password_callback),
        settings.connect_timeout,
    )
    if as_json:
        print_json("outbox.rebase/1", relays=[asdict(relay) for relay in done])
        return
    for relay in done:
        click.echo(f"{relay.relay} ({relay.lane}): {relay.messages} messages will be sent")
    say("rebased; messages whose delivery was in doubt are sent again")
