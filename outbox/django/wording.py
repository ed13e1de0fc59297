"""The words of `outbox-relay` as people have them at hand in a Django project."""

from __future__ import annotations

import re

#: Not taken from outbox.cli, which needs click, and a consumer does not.
WORDED = (
    "run",
    "migrate",
    "status",
    "healthcheck",
    "doctor",
    "relays",
    "lanes",
    "pause",
    "resume",
    "paused",
    "scheduled",
    "held",
    "audit",
    "prune",
    "verify",
    "replay",
    "bench",
    "config",
    "demo",
)

_PROGRAM = re.compile(rf"\boutbox-relay ({'|'.join(WORDED)})\b")

#: Where Django's migrations make the tables, nothing else needs to be said.
_MIGRATE = re.compile(r"\boutbox-relay migrate(?: --only \w+)?(?=`)")

_OWN = {"run": "outbox_relay"} | {
    name: f"outbox_{name}" for name in ("migrate", "status", "doctor")
}


def in_djangos_words(text: str, using: str = "default") -> str:
    """Return advice with the command that people have at hand here.

    >>> in_djangos_words("run `outbox-relay migrate`")
    'run `manage.py migrate outbox_relay`'
    >>> in_djangos_words("start `outbox-relay run --name audit`", "archive")
    'start `manage.py outbox_relay --database=archive --name audit`'
    >>> in_djangos_words("outbox-relay relays forget audit")
    'manage.py outbox relays forget audit'
    """
    where = "" if using == "default" else f" --database={using}"
    text = _MIGRATE.sub(f"manage.py migrate outbox_relay{where}", text)
    return _PROGRAM.sub(lambda found: f"manage.py {_djangos(found[1], where)}", text)


def _djangos(command: str, where: str) -> str:
    if command in _OWN:
        return f"{_OWN[command]}{where}"
    return f"outbox{where} {command}"
