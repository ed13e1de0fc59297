"""Every command explains itself, and its examples are right."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from outbox.cli.app import app
from outbox.cli.main import main
from outbox.cli.options import SettingOption
from outbox.cli.status import _holder
from outbox.config.keys import BY_NAME


def commands(
    command: click.Command = app, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from commands(child, (*path, name))


ALL = [pytest.param(*found, id=" ".join(found[0]) or "outbox-relay") for found in commands()]


def examples(command: click.Command) -> list[str]:
    lines = (command.epilog or "").splitlines()
    return [line.strip() for line in lines if line.startswith("  outbox-relay ")]


def test_ctrl_c_before_a_command_has_begun_shows_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("outbox.cli.app.run", interrupted)
    with pytest.raises(SystemExit, match="1"):
        main(["status"])
    assert capsys.readouterr().err == "aborted\n"


@pytest.mark.parametrize(("path", "command"), ALL)
def test_help_has_a_summary_and_an_example(path: tuple[str, ...], command: click.Command) -> None:
    assert examples(command), f"{path} has no example"
    assert (command.help or "").split("\n")[0].endswith(".")
    for option in command.params:
        assert isinstance(option, click.Argument) or option.help, f"{option.name} has no help"


EXAMPLES = sorted({example for _, command in commands() for example in examples(command)})


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_are_understood(example: str) -> None:
    arguments = shlex.split(example)[1:]
    command: click.Command = app
    context = click.Context(app, info_name="outbox-relay")
    while isinstance(command, click.Group):
        found = command.get_command(context, arguments[0])
        assert found is not None, example
        command, arguments = found, arguments[1:]
    command.make_context(command.name, list(arguments), parent=context)


@pytest.mark.parametrize(("path", "command"), ALL)
def test_settings_show_their_variable_and_do_not_read_it(
    path: tuple[str, ...], command: click.Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = click.Context(command)
    for option in command.params:
        if not isinstance(option, SettingOption):
            assert getattr(option, "envvar", None) is None
            continue
        key = BY_NAME[str(option.name)]
        monkeypatch.setenv(key.variable, "from-the-environment")
        assert option.opts == [key.flag]
        assert f"env var: {key.variable}" in str(option.get_help_record(context))
        assert option.value_from_envvar(context) is None


def test_help_loads_no_driver() -> None:
    heavy = "sqlalchemy psycopg confluent_kafka"
    script = (
        "import sys\nfrom outbox.cli.app import run\nrun(['--help'])\n"
        f"print([name for name in '{heavy}'.split() if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("owner", "shown"),
    [(None, "nobody"), ("db1 pid=7 start=9 in=boot/1 #1-abc", "db1 pid=7"), ("else", "else")],
)
def test_status_names_the_host_and_the_process_of_a_holder(owner: str | None, shown: str) -> None:
    assert _holder(owner) == shown
