"""What the management commands have in common: they are those of `outbox-relay`."""

from __future__ import annotations

import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS

from outbox.django.apps import LABEL
from outbox.django.hosting import run_command
from outbox.errors import OutboxError

# Any: Django's own signatures.

DJANGO_OPTIONS = """
Django:
  --database ALIAS  The alias in DATABASES.  [default: default]
  Also --settings, --pythonpath, --traceback and --skip-checks. What OUTBOX says in Django's
  settings counts more than the environment, and less than the options here.
"""


class PassingCommand(BaseCommand):
    """A command of `outbox-relay` with Django's settings.

    It takes every option of the command it stands for, and `--database ALIAS`. It ends with the
    exit code of that command.
    """

    #: The name of the command it stands for; None for all of them.
    stands_for: ClassVar[str | None]

    requires_system_checks = (LABEL,)

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Return a parser that knows Django's options and lets the others pass."""
        self._program = f"{Path(prog_name).name} {subcommand}"
        parser = super().create_parser(
            prog_name, subcommand, add_help=False, allow_abbrev=False, **kwargs
        )
        parser.__class__ = _PassingParser  # Django has no hook for the class
        return parser

    def add_arguments(self, parser: CommandParser) -> None:
        """Add what Django's commands call a database."""
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, metavar="ALIAS")

    def print_help(self, prog_name: str, subcommand: str) -> None:
        """Print the help of the command it stands for, as `manage.py help` wants it."""
        self.create_parser(prog_name, subcommand)
        self.handle("--help", database=DEFAULT_DB_ALIAS)

    def handle(self, *arguments: Any, **options: Any) -> None:
        """Run it."""
        using = options["database"]
        with ExitStack() as stack:
            if options.get("stdout"):
                stack.enter_context(redirect_stdout(options["stdout"]))
            if options.get("stderr"):
                stack.enter_context(redirect_stderr(options["stderr"]))
            code = self._run(arguments, using)
            if {"-h", "--help"} & set(arguments):
                sys.stdout.write(DJANGO_OPTIONS)
        if code:
            sys.exit(code)

    def _run(self, arguments: tuple[str, ...], using: str) -> int:
        try:
            return run_command(self.stands_for, arguments, using=using, program=self._program)
        except OutboxError as error:
            raise CommandError(str(error), returncode=error.exit_code) from error


class _PassingParser(CommandParser):
    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return Django's options, with everything else in `args`."""
        options, rest = self.parse_known_args(args, namespace)
        options.args = rest
        return options
