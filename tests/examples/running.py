"""The examples, started as their README says: one command, and then it runs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.acceptance.command import ROOT, environment
from tests.servers.ports import free_port
from tests.servers.process import alive, children
from tests.waiting import wait_until

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

EXAMPLES = Path(ROOT, "examples")

#: Settings of whoever runs the tests, which are not meant for these.
_FOREIGN = ("DATABASE_URL", "KAFKA_", "OTEL_", "TRACES_", "SHOP_", "BILLING_", "DJANGO_", "FLASK_")


class Examples:
    """One run of `examples/run`; stopped as by Ctrl-C at the end of its `with`."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        self.shop = f"http://127.0.0.1:{variables.setdefault('SHOP_PORT', str(free_port()))}"
        self.billing = f"http://127.0.0.1:{variables.setdefault('BILLING_PORT', str(free_port()))}"
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [EXAMPLES / "run", *arguments],
            env=environment_of(variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    @property
    def said(self) -> str:
        return "".join(self.lines)

    def says(self, words: str, *, timeout: float = 60.0) -> None:
        """Wait until it has said so, or fail with what it said instead."""
        wait_until(
            lambda: words in self.said or self.process.poll() is not None,
            what=f"the examples to say {words!r}",
            timeout=timeout,
        )
        assert words in self.said, self.said

    def ready(self) -> Self:
        """Wait until both services serve their pages."""
        self.says("ready; Ctrl-C stops everything")
        return self

    @property
    def password(self) -> str:
        """The admin's."""
        found = re.search(r"password (\S+)", self.said)
        assert found
        return found[1]

    def pid(self, name: str) -> int:
        """Return the process that was started under this name, such as `shop relay`."""
        wanted = name.replace(" ", "-")
        for child in children(self.process.pid):
            variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            if f"OTEL_SERVICE_NAME={wanted}".encode() in variables:
                return child
        raise AssertionError(f"there is no process {name!r}")

    def stop(self, number: int = signal.SIGINT) -> int:
        """Tell it to stop, and return its exit code."""
        family = children(self.process.pid)
        self.process.send_signal(number)
        code = self.process.wait(30)
        assert not any(map(alive, family)), "processes were left behind"
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.stop()
        self.process.kill()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


def environment_of(variables: dict[str, str]) -> dict[str, str]:
    """Return an environment without settings of whoever runs the tests, but with these."""
    kept = environment()
    for name in [name for name in kept if name.startswith(_FOREIGN)]:
        del kept[name]
    return {**kept, "VIRTUAL_ENV": sys.prefix, "PATH": os.environ["PATH"], **variables}


def ask(url: str) -> Any:
    """Return the JSON that a service answers."""
    with closing(urllib.request.urlopen(url, timeout=10)) as answer:
        return json.load(answer)
