"""Where the command `outbox-relay` begins."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code."""
    try:
        sys.exit(_run(arguments))
    except KeyboardInterrupt:  # while our own modules were still being loaded
        sys.stderr.write("aborted\n")
        sys.exit(1)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        import click  # noqa: F401 - whether it can be imported is the question
    except ImportError:
        sys.stderr.write(
            'error: the command needs more packages; run `pip install "outbox-relay[relay]"`\n'
        )
        return 78
    from outbox.cli.app import run

    _spell_out_what_cannot_be_encoded()
    return run(arguments)


def _spell_out_what_cannot_be_encoded() -> None:
    """Let stdout do as stderr does, where the locale's encoding lacks a character."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
