"""The tables of exit codes, the commands, and the errors agree."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import outbox.cli
from outbox import errors
from outbox.cli.app import COMMANDS, EPILOG, app
from outbox.cli.exit_codes import CHECK_FAILED, CHECKS, EXIT_CODES
from tests.docs.markdown import ROOT, table

MODULES = sorted(Path(outbox.cli.__file__).parent.glob("*.py"))

#: Written where they are used: what everybody knows.
PLAIN = {0, 1}


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in MODULES:
        yield path.stem, ast.parse(path.read_text("utf-8"))


def test_the_readme_lists_what_the_commands_end_with() -> None:
    listed = {int(code): what for code, what in table(ROOT / "README.md", "Exit codes")}
    assert listed == EXIT_CODES


def test_the_page_of_errors_takes_them_from_the_code() -> None:
    assert "{from-code} exit-codes" in (ROOT / "docs/reference/errors.md").read_text("utf-8")


def test_the_help_lists_the_same_codes() -> None:
    told = " ".join(EPILOG.partition("Exit codes: ")[2].partition(";")[0].split())
    assert [int(code) for code in re.findall(r"\d+", told)] == sorted(EXIT_CODES)


@pytest.mark.parametrize("name", errors.__all__)
def test_what_an_error_ends_a_command_with_is_listed(name: str) -> None:
    assert getattr(errors, name).exit_code in EXIT_CODES


def test_the_commands_that_check_something_are_those_that_are_listed() -> None:
    checking = {
        module
        for module, tree in trees()
        if module != "exit_codes"
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id == "CHECK_FAILED"
    }
    modules = {where.partition(":")[0].rpartition(".")[2]: name for name, where in COMMANDS.items()}
    assert {modules[module] for module in checking} == set(CHECKS)
    assert CHECK_FAILED in EXIT_CODES


@pytest.mark.parametrize(("name", "option"), CHECKS.items())
def test_the_options_of_checks_are_there(name: str, option: str) -> None:
    command = app.get_command(click.Context(app), name)
    assert command is not None
    options = {each for param in command.params for each in param.opts}
    assert not option or option in options


def test_no_command_ends_with_a_number_of_its_own() -> None:
    own = {
        (module, constant.value)
        for module, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "exit"
        for argument in node.args
        for constant in ast.walk(argument)
        if isinstance(constant, ast.Constant) and isinstance(constant.value, int)
    }
    assert {(module, code) for module, code in own if code not in PLAIN} == set()
