"""How commands end."""

from __future__ import annotations

#: A command that was to check something has found it wanting.
CHECK_FAILED = 6

#: Which commands end with it, by their names, and with which option.
CHECKS = {
    "migrate": "--check",
    "run": "--drain",
    "status": "--fail-if-lag",
    "doctor": "",
    "verify": "",
    "healthcheck": "",
}

_WHAT = {"run": " when messages are left, held or paused"}

_CHECKS_IN_WORDS = ", ".join(
    f"`{f'{command} {option}'.strip()}`{_WHAT.get(command, '')}"
    for command, option in CHECKS.items()
)

EXIT_CODES = {
    0: "done",
    1: "failed",
    2: "wrong usage",
    3: "database unreachable",
    4: "broker unreachable",
    5: "tables missing or incompatible, or the cursor does not fit the log",
    CHECK_FAILED: f"a check failed ({_CHECKS_IN_WORDS})",
    78: "bad configuration",
}
