"""Alembic finds our plugin, whoever is imported first, and can be done without."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from types import ModuleType

import pytest

NAME = "alembic.autogenerate.outbox"


def python(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh interpreter, where a warning is an error."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "first",
    [
        "import alembic",
        "import alembic.autogenerate",
        "import alembic.runtime.plugins",
        "from alembic import op",
        "import outbox.alembic",
        "import outbox.alembic_plugin",
        "from outbox.alembic import add_tables",
    ],
)
def test_it_does_not_matter_who_is_imported_first(first: str) -> None:
    done = python(
        f"{first}\nimport alembic, outbox.alembic\nfrom alembic import op\n"
        "from alembic.runtime.plugins import _all_plugins\n"
        f"print({NAME!r} in _all_plugins, op.create_outbox.__name__)"
    )
    assert (done.stdout, done.stderr) == ("True create_outbox\n", "")


def test_the_first_releases_of_alembic_with_plugins_can_load_it() -> None:
    """They iterated over what they loaded, and a TypeError there is an Alembic without import."""
    [entry_point] = entry_points(group="alembic.plugins", name=NAME)
    loaded = entry_point.load()
    assert isinstance(loaded, ModuleType)
    assert list(loaded) == [loaded]


def test_without_alembic_it_says_what_to_install() -> None:
    done = python("import sys\nsys.modules['alembic'] = None\nimport outbox.alembic")
    assert 'MissingExtra: migrations by Alembic need Alembic; run `pip install "outbox-relay' in (
        done.stderr
    )


def test_writing_messages_needs_no_alembic() -> None:
    done = python("import sys, outbox\nfrom outbox import Outbox\nprint('alembic' in sys.modules)")
    assert done.stdout == "False\n"
