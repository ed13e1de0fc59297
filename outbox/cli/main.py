"""Where the command `outbox-relay` begins."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code."""
    try:
        import click  # noqa: F401 - whether it can be imported is the question
    except ImportError:
        sys.stderr.write(
            'error: the command needs more packages; run `pip install "outbox-relay[relay]"`\n'
        )
        sys.exit(78)
    from outbox.cli.app import run

    sys.exit(run(arguments))


if __name__ == "__main__":
    main()
