"""Run the snippets of a page in their order, as a reader would.

Where a page says `localhost/NAME`, `localhost:9092` or one of TOPICS, the walk has a database, a
broker and a topic of its own. What a reader does besides reading is said in a comment that the
page does not show, right before the fence:

- `<!-- file: shop/settings.py -->`: put the block into this file, or append to it if an earlier
  block made it and this one says `<!-- append: … -->`
- `<!-- serve: http://localhost:8000/livez -->`: start the command and leave it on until the page
  ends; go on when the address answers
- `<!-- until: select … -->`: start the command (or program), wait until the query on the page's
  first database gives a true value, then stop it as Ctrl-C or a service manager would
- `<!-- database: shop -->`: run the SQL on this database, and not on the page's first
- `<!-- exit: 6 -->`: the command ends with this code
- `<!-- elsewhere: REASON -->`: cannot be run here; allowed for the commands in ELSEWHERE only
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import yaml

from tests.acceptance.command import PROGRAM, environment
from tests.docs.markdown import ROOT, Block
from tests.servers.availability import require
from tests.servers.ports import free_port
from tests.servers.registry import SchemaRegistry
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from tests.servers.kafka_topics import KafkaServer
    from tests.servers.postgresql import PostgreSQLServer

#: Topics that pages speak of, always in quotes or as an option's value.
TOPICS = ("orders", "invoices", "payments")

#: What no test can run here, for want of a cluster, a daemon or a service manager.
ELSEWHERE = ("docker", "kubectl", "systemctl", "install", "journalctl", "kafka-topics.sh")

#: Where pages say that a schema registry is. It is started for the page that says so.
REGISTRY = "http://localhost:8081"

_DATABASE = re.compile(r"(postgresql(?:\+\w+)?)://(?:\w+@)?localhost/(\w+)")
_PORT = re.compile(r"\b(localhost|127\.0\.0\.1):(\d{4,5})\b")
_PORT_OPTION = re.compile(r"(?<=port )\d{4,5}\b")


class Walk:
    """Takes blocks, in one directory and against one set of servers."""

    def __init__(self, directory: Path, postgresql: PostgreSQLServer, kafka: KafkaServer) -> None:
        self.directory = directory
        self.kafka = kafka
        self._postgresql = postgresql
        self._databases: dict[str, str] = {}
        self._topics: dict[str, str] = {}
        self._ports: dict[str, int] = {"9092": int(kafka.bootstrap_servers.rpartition(":")[2])}
        self._registry_url: str | None = None
        self._names = itertools.count(1)
        self._kept = ExitStack()
        self._make_commands()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._kept.close()
        for url in self._databases.values():
            self._postgresql.drop_database(urlsplit(url).path[1:])

    def _make_commands(self) -> None:
        for name, program in (
            ("outbox-relay", " ".join(PROGRAM)),
            ("python", sys.executable),
            ("pytest", f"{sys.executable} -m pytest -p no:cacheprovider"),
            ("flask", f"{sys.executable} -m flask"),
            ("alembic", f"{sys.executable} -m alembic.config"),
            ("uvicorn", f"{sys.executable} -m uvicorn"),
        ):
            script = self.directory / "bin" / name
            script.parent.mkdir(exist_ok=True)
            script.write_text(f'#!/bin/sh\nexec {program} "$@"\n')
            script.chmod(0o755)

    # What pages speak of, and what it is here

    def database(self, name: str) -> str:
        """Return the URL of the database that the page calls NAME."""
        if name not in self._databases:
            self._databases[name] = self._postgresql.create_database()
        return self._databases[name]

    def topic(self, name: str) -> str:
        """Return the topic that the page calls NAME, which exists."""
        if name not in self._topics:
            self._topics[name] = self.kafka.create_topic(partitions=3)
        return self._topics[name]

    def here(self, text: str) -> str:
        """Return a snippet with this walk's databases, ports and topics in it."""
        text = _DATABASE.sub(
            lambda found: self.database(found[2]).replace("postgresql", found[1], 1), text
        )
        if REGISTRY in text:
            text = text.replace(REGISTRY, self._registry())
        for name in TOPICS:
            quoted = re.compile(rf"(?<=[\"'])({name})(?=[\"'])|(?<=--topic )({name})\b")
            if quoted.search(text):
                text = quoted.sub(self.topic(name), text)
        text = _PORT.sub(lambda found: f"127.0.0.1:{self._port(found[2])}", text)
        return _PORT_OPTION.sub(lambda found: str(self._port(found[0])), text)

    def there(self, text: str) -> str:
        """Return what a snippet printed with the topics as the page calls them."""
        for name, topic in self._topics.items():
            text = text.replace(topic, name)
        return text

    def _registry(self) -> str:
        if self._registry_url is None:
            self._registry_url = self._kept.enter_context(require(SchemaRegistry)).url
            port = str(urlsplit(self._registry_url).port)
            self._ports[port] = int(port)
        return self._registry_url

    def _port(self, port: str) -> int:
        # Ports that a server got by itself stand in the URLs of databases.
        if any(f":{port}/" in url for url in self._databases.values()):
            return int(port)
        return self._ports.setdefault(port, free_port())

    # Taking a block

    def take(self, block: Block) -> None:
        """Do what a reader would do with a block."""
        if path := block.said("file") or block.said("append"):
            self._write(block, path)
            return
        if block.said("elsewhere"):
            check_elsewhere(block)
            return
        kinds: dict[str, Callable[[Block], None]] = {
            "sh": self._shell,
            "python": self._python,
            "sql": self._sql,
            "toml": _parse(tomllib.loads),
            "yaml": _parse(lambda text: list(yaml.safe_load_all(text))),
            "json": _parse(json.loads),
            "text": lambda _: None,
        }
        assert block.language in kinds, f"{block.name}: say what to do with {block.language!r}"
        kinds[block.language](block)

    def _write(self, block: Block, path: str) -> None:
        file = self.directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        before = file.read_text("utf-8") if block.said("append") else ""
        file.write_text(before + self.here(block.text), "utf-8")

    def _shell(self, block: Block) -> None:
        for line in _lines(block.text):
            if line.startswith(("pip install", "python -m venv", ". ")):
                check_extras(line)
            elif line.startswith("scripts/"):
                assert os.access(ROOT / line.split()[0], os.X_OK), f"{line} cannot be run"
            else:
                self._command(block, ["bash", "-euc", self.here(line)])

    def _python(self, block: Block) -> None:
        script = self.directory / f"snippet_{next(self._names)}.py"
        script.write_text(self.here(block.text), "utf-8")
        self._command(block, [sys.executable, "-W", "error", script.name])

    def _sql(self, block: Block) -> None:
        url = self.database(block.said("database") or next(iter(self._databases)))
        with psycopg.connect(url) as connection:
            connection.execute(self.here(block.text))  # type: ignore[call-overload]  # a page's text

    def _command(self, block: Block, command: list[str]) -> None:
        if address := block.said("serve"):
            self._serve(command, self.here(address))
            return
        until = block.said("until")
        out = self.run(
            _alone(command) if until else command,
            until=self._holds(until) if until else None,
            code=int(block.said("exit") or 0),
        )
        out = self.there(out)
        if block.output is not None:
            assert _matches(block.output, out), f"{block.name} printed\n{out}"

    def _holds(self, query: str) -> Callable[[], bool]:
        def holds() -> bool:
            with psycopg.connect(next(iter(self._databases.values()))) as connection:
                row = connection.execute(query).fetchone()  # type: ignore[call-overload]  # as above
            return bool(row and row[0])

        return holds

    def run(
        self, command: list[str], *, until: Callable[[], bool] | None = None, code: int = 0
    ) -> str:
        """Run a command to its end, or until a condition holds and then tell it to stop."""
        with self._popen(command) as process:
            try:
                if until is not None:
                    wait_for(until, process, " ".join(command))
                    process.send_signal(signal.SIGTERM)
                out, err = process.communicate(timeout=60)
            finally:
                process.kill()
        assert process.returncode == code, f"{' '.join(command)}: {process.returncode}\n{out}{err}"
        return out

    def _serve(self, command: list[str], address: str) -> None:
        process = self._kept.enter_context(self._popen(_alone(command)))
        self._kept.callback(process.kill)
        wait_for(lambda: _answers(address), process, " ".join(command))

    def _popen(self, command: list[str]) -> subprocess.Popen[str]:
        path = f"{self.directory / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(
            command,
            cwd=self.directory,
            env=environment(PATH=path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], what: str) -> None:
    """Wait for the effect of a process that goes on; fail at once if it ends."""
    wait_until(lambda: process.poll() is not None or condition(), what=f"the effect of {what}")
    assert process.poll() is None, f"{what} ended: {process.communicate()}"


def _alone(command: list[str]) -> list[str]:
    """Return a command without a shell around it that would keep signals from it."""
    return [*command[:-1], f"exec {command[-1]}"] if command[0] == "bash" else command


def check_extras(line: str) -> None:
    """Check that the extras of a `pip install` exist; that it works, the demo's script shows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    known = set(project["optional-dependencies"])
    for extras in re.findall(r'"(?:outbox-relay|\.)\[([a-z,-]+)\]"', line):
        assert set(extras.split(",")) <= known, line


def check_elsewhere(block: Block) -> None:
    """Check that a block which is not run could not be run, and that its files exist."""
    for line in _lines(block.text):
        words = line.removeprefix("sudo ").split()
        assert words[0] in ELSEWHERE, f"{block.name}: {words[0]} can be run here"
        for path in re.findall(r"\b(?:deploy|examples)/[\w./-]+", line):
            assert (ROOT / path).exists(), f"{block.name}: {path} does not exist"


def _lines(text: str) -> list[str]:
    joined = text.replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def _parse(load: Callable[[str], object]) -> Callable[[Block], None]:
    def parse(block: Block) -> None:
        load(block.text)

    return parse


def _matches(expected: str, out: str) -> bool:
    """Compare, with `…` for what differs from run to run."""
    pattern = ".*".join(re.escape(part) for part in expected.strip().split("…"))
    return re.fullmatch(pattern, out.strip(), re.DOTALL) is not None


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500  # 503 is the answer of a relay that is not ready
    except OSError:
        return False
