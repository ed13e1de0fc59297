"""What `import outbox` gives, and what it leaves alone."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import outbox
from outbox import errors

HEAVY = ("sqlalchemy", "psycopg", "confluent_kafka", "click", "greenlet", "pydantic")


def test_import_is_light() -> None:
    """Drivers are loaded by those who use them, if at all."""
    code = f"import sys, outbox; print([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )

    assert result.stdout.strip() == "[]"


def test_making_and_checking_a_message_is_light_too() -> None:
    """A process that only has sqlite3 pays for nothing else."""
    code = (
        "import sys, sqlite3, outbox\n"
        "c = sqlite3.connect(':memory:')\n"
        "c.execute('create table outbox_message (topic, id, payload, content_type)')\n"
        "outbox.Outbox().add(c, 'orders', {'a': 1})\n"
        "assert c.in_transaction\n"
        "c.close()\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )

    assert result.stdout.strip() == "[]"


def test_all_is_sorted_and_complete() -> None:
    """Nothing public is missing from it, and nothing in it is missing."""
    public = {
        name
        for name in dir(outbox)
        if not name.startswith("_") and _is_ours(getattr(outbox, name)) and name != "annotations"
    }

    assert outbox.__all__ == sorted(outbox.__all__)
    assert set(outbox.__all__) == public | {"__version__"}


def _is_ours(value: object) -> bool:
    return getattr(value, "__module__", "").startswith("outbox")


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    """Although some are loaded when they are first asked for."""
    with pytest.raises(AttributeError, match="module 'outbox' has no attribute 'Outbocks'"):
        outbox.Outbocks  # type: ignore[attr-defined]  # noqa: B018 - both say what is tested


def test_every_public_error_is_exported() -> None:
    """So that an application needs one import."""
    assert set(errors.__all__) <= set(outbox.__all__)


def test_the_version_is_a_version() -> None:
    """The build reads it from there."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", outbox.__version__)


def test_add_and_add_async_take_the_same_arguments() -> None:
    """With the names and defaults of the documentation."""
    expected = (
        "(self, transaction, /, topic, payload, *, key=None, type=None, headers=None, id=None, "
        "lane=None, content_type=None, deliver_at=None, delay=None, wait_for=None, "
        "expires_at=None, ordering=None)"
    )

    for method in (outbox.Outbox.add, outbox.Outbox.add_async):
        assert _without_types(method) == expected
    assert _without_types(outbox.Outbox.add_all) == "(self, transaction, /, messages)"
    assert _without_types(outbox.Outbox.add_all_async) == "(self, transaction, /, messages)"


def _without_types(method: object) -> str:
    signature = inspect.signature(method)  # type: ignore[arg-type]  # a method is callable
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
    ]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


@pytest.mark.parametrize("framework", ["django", "flask", "alembic"])
def test_without_its_framework_an_integration_says_what_to_install(framework: str) -> None:
    code = f"import sys; sys.modules[{framework!r}] = None; import outbox.{framework}"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )

    assert "MissingExtra" in result.stderr
    assert f'pip install "outbox-relay[{framework}]"' in result.stderr
