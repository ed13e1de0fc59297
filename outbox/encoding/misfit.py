"""A value that does not fit its schema."""

from __future__ import annotations

from outbox.text import shown


class Misfit(ValueError):
    """A value does not fit its schema; `path` says where it stands."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"{path}: {problem}")


def misfit(path: str, wanted: str, value: object) -> Misfit:
    """Return the error for a value that is not what the schema wants."""
    return Misfit(path, f"{shown(value)} is not {wanted}")
