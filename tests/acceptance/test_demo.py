"""The demo: it shows what it says, notices when a promise is broken, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from outbox.demo.main import run_demo
from outbox.demo.verdict import Evidence, judge
from outbox.errors import OutboxError
from outbox.inbox.inbox import Inbox
from tests.acceptance.command import PROGRAM, ROOT, Commands, environment
from tests.servers.process import alive, children
from tests.waiting import wait_until

VERIFIED = re.compile(
    r"verified: (?P<committed>\d+) orders committed, (?P<rolled_back>\d+) rolled back, "
    r"(?P<in_kafka>\d+) messages in Kafka \((?P<repeats>\d+) sent again\), (?P<billed>\d+) billed, "
    r"each once, in order; (?P<lost>\d+) lost"
)


@pytest.fixture
def outbox_relay(tmp_path: Path) -> Commands:
    """Give the commands; what they leave in the temporary directory is then in `tmp_path`."""
    commands = Commands(tmp_path)
    commands.variables["TMPDIR"] = str(tmp_path)
    return commands


def test_it_tells_a_story_and_ends_with_numbers_that_add_up(
    outbox_relay: Commands, tmp_path: Path
) -> None:
    # When
    done = outbox_relay("demo")

    # Then
    assert done.code == 0, done.err
    verified = VERIFIED.fullmatch(done.out.splitlines()[-1])
    assert verified, done.out
    number = {name: int(digits) for name, digits in verified.groupdict().items()}
    assert (number["committed"], number["rolled_back"], number["lost"]) == (40, 10, 0)
    assert number["billed"] == number["committed"]
    assert number["in_kafka"] == number["committed"] + number["repeats"]
    assert number["repeats"] > 0
    # And it is plain text, which leaves nothing behind
    assert (done.out.isascii(), done.err) == (True, "")
    assert "\x1b" not in done.out
    assert list(tmp_path.iterdir()) == []


def test_json_is_all_there_is_on_stdout(outbox_relay: Commands) -> None:
    done = outbox_relay("demo", "--json")
    summary = done.json
    assert done.code == 0
    assert (summary["schema"], summary["ok"], summary["problems"]) == ("outbox.demo/1", True, [])
    assert summary["in_kafka"] - summary["repeats"] == summary["committed"] == summary["billed"]
    assert VERIFIED.search(done.err)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_removes_its_files_and_ends_its_processes(
    tmp_path: Path, number: int
) -> None:
    # Given a demo whose relay process has been started
    with started_demo(tmp_path) as demo:
        child = wait_until(lambda: children(demo.pid), what="the relay's process")

        # When it is told to end, as by Ctrl-C
        os.killpg(demo.pid, number)

        # Then
        assert demo.wait(30) in (1, 128 + number)
        wait_until(lambda: not any(map(alive, child)), what="the end of the relay's process")
        assert list(tmp_path.iterdir()) == []


def test_the_relay_process_ends_when_the_demo_is_killed(tmp_path: Path) -> None:
    # Given
    with started_demo(tmp_path) as demo:
        child = wait_until(lambda: children(demo.pid), what="the relay's process")

        # When
        demo.kill()

        # Then
        wait_until(lambda: not any(map(alive, child)), what="the end of the relay's process")


def test_a_demo_whose_inbox_forgets_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an inbox that takes every message for a new one
    monkeypatch.setattr(Inbox, "record", lambda *_: True)
    monkeypatch.setattr("outbox.inbox.handling.Handling._check_committed", lambda *_: None)

    # When
    lines: list[str] = []
    verdict = run_demo(lines.append)

    # Then
    assert verdict.billed > verdict.committed
    assert lines[-1].startswith("FAILED: billed more than once: ")


def test_a_relay_that_is_not_killed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "true")
    with pytest.raises(OutboxError, match="was to be killed, and ended with code 0"):
        run_demo(lambda _: None)


# The verdict

GOOD: dict[str, Any] = {
    "tried": [1, 2, 3, 4],
    "declined": [4],
    "orders": {1: "ada", 2: "ben", 3: "ada"},
    "messages": [(1, "ada"), (2, "ben"), (1, "ada"), (2, "ben"), (3, "ada")],
    "bills": [(1, "ada"), (2, "ben"), (3, "ada")],
}


def test_the_verdict_counts_what_it_is_shown() -> None:
    verdict = judge(Evidence(**GOOD))
    assert verdict.sentence == (
        "verified: 3 orders committed, 1 rolled back, 5 messages in Kafka (2 sent again), "
        "3 billed, each once, in order; 0 lost"
    )


@pytest.mark.parametrize(
    ("change", "lost", "problem"),
    [
        ({"messages": GOOD["messages"][:-1]}, 1, "committed, and not in Kafka: 3"),
        ({"bills": [(1, "ada"), (2, "ben")]}, 1, "committed, and not billed: 3"),
        ({"bills": [*GOOD["bills"], (3, "ada")]}, 0, "billed more than once: 3"),
        ({"messages": [*GOOD["messages"], (4, "eve")]}, 0, "rolled back, and sent or billed: 4"),
        ({"bills": [*GOOD["bills"], (4, "eve")]}, 0, "rolled back, and sent or billed: 4"),
        ({"declined": [3]}, 0, "declined, and in the shop's database: 3"),
        (
            {"messages": [(3, "ada"), (1, "ada"), (2, "ben"), (2, "ben")]},
            0,
            "overtaken in Kafka by a later order of the customer: 1",
        ),
        (
            {"bills": [(3, "ada"), (2, "ben"), (1, "ada")]},
            0,
            "billed after a later order of the customer: 1",
        ),
        (
            {"messages": GOOD["messages"][2:]},
            0,
            "no message was sent again, so the relay was not killed midway",
        ),
    ],
)
def test_the_verdict_names_every_broken_promise(
    change: dict[str, Any], lost: int, problem: str
) -> None:
    verdict = judge(Evidence(**{**GOOD, **change}))
    assert (verdict.problems, verdict.lost) == ((problem,), lost)
    assert verdict.sentence == f"FAILED: {problem}"


def test_a_failed_verification_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from outbox.cli.app import run

    failed = judge(Evidence(**{**GOOD, "bills": []}))
    monkeypatch.setattr("outbox.demo.main.run_demo", lambda _: failed)
    assert run(["demo", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


# The script


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Give a copy of what the script installs."""
    copy = tmp_path / "a checkout"
    for folder in ("outbox", "migrations", "scripts"):
        shutil.copytree(Path(ROOT, folder), copy / folder)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(Path(ROOT, file), copy)
    return copy


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_script_makes_an_environment_and_uses_it_again_if_nothing_changed(
    checkout: Path,
) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        script = checkout / "scripts" / "demo"
        variables = environment(PYTHON=sys.executable)
        return subprocess.run([script, *arguments], env=variables, capture_output=True, text=True)

    # When it runs in a fresh checkout
    first = run("--json")

    # Then
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["ok"] is True
    assert "making .venv-demo" in first.stderr
    # And the next time it makes nothing
    assert run("--help").stderr == ""
    # And a change makes it begin anew: here it cannot, since there is nothing to install
    (checkout / "pyproject.toml").write_text("")
    assert "making .venv-demo" in run("--help").stderr


# A demo as a terminal would run it


@contextmanager
def started_demo(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a demo in a process group of its own; kill it at the end if it has not ended."""
    with subprocess.Popen(
        [*PROGRAM, "demo"],
        env=environment(TMPDIR=str(tmp_path)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as demo:
        try:
            yield demo
        finally:
            demo.kill()
