"""The words of `outbox-relay` as people have them at hand in a Flask project."""

from __future__ import annotations

import re

from outbox.cli.app import COMMANDS

_PROGRAM = re.compile(rf"\boutbox-relay (?={'|'.join(COMMANDS)}\b)")


def in_flasks_words(text: str) -> str:
    """Return advice with the command that people have at hand here.

    >>> in_flasks_words("run `outbox-relay migrate`")
    'run `flask outbox migrate`'
    """
    return _PROGRAM.sub("flask outbox ", text)
