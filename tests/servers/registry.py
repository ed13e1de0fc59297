"""A schema registry of one's own, which speaks the API of Confluent's: Apicurio Registry."""

from __future__ import annotations

import functools
import json
import shutil
import signal
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.servers.maven import fetched, java
from tests.servers.ports import free_port
from tests.servers.process import ServerProcess

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

ARTIFACT = "io.apicurio:apicurio-registry-app:3.0.9:tar.gz:all"
OPTIONS = ("-XX:TieredStopAtLevel=1", "-Xmx384m", "-Dquarkus.http.host=127.0.0.1")
START_TIMEOUT = 90.0  # seconds
STOP_TIMEOUT = 20.0


class SchemaRegistry:
    """A registry that keeps what it has in memory; restarted, it is empty. Paused, it hangs.

    Use it as a context manager.
    """

    def __init__(self) -> None:
        self._command = [java("the schema registry"), *OPTIONS]
        self._jar = _directory() / "apicurio-registry-app-3.0.9-runner.jar"
        self._home = Path(tempfile.mkdtemp(prefix="outbox-registry-"))
        self._port = free_port()
        self._process: ServerProcess | None = None

    @property
    def url(self) -> str:
        """Where clients of Confluent's registry find it."""
        return f"http://127.0.0.1:{self._port}/apis/ccompat/v7"

    def register(self, subject: str, schema: str, kind: str = "AVRO") -> int:
        """Register a schema by plain HTTP and return its id."""
        answer = self.ask(f"subjects/{subject}/versions", {"schema": schema, "schemaType": kind})
        return int(answer["id"])

    def schema(self, schema_id: int) -> str:
        """Return the text of a schema by its id."""
        return str(self.ask(f"schemas/ids/{schema_id}")["schema"])

    def ask(self, path: str, body: object | None = None) -> Any:
        """Ask by plain HTTP, as somebody would who does not have our code."""
        request = urllib.request.Request(
            f"{self.url}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/vnd.schemaregistry.v1+json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def start(self) -> None:
        """Start, on the same port, and wait until it answers."""
        self._process = ServerProcess(
            [*self._command, f"-Dquarkus.http.port={self._port}", "-jar", str(self._jar)],
            directory=self._home,
            log=self._home / "registry.log",
        )
        self._process.wait_until(self._answers, what="the schema registry", timeout=START_TIMEOUT)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nobody answers."""
        assert self._process is not None
        self._process.send(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send(signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            return isinstance(self.ask("subjects"), list)
        except (urllib.error.URLError, OSError, ValueError):
            return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None and self._process.running:
            self.resume()
            self._process.end(signal.SIGTERM, patience=STOP_TIMEOUT)
        shutil.rmtree(self._home, ignore_errors=True)


@functools.cache
def _directory() -> Path:
    return fetched("registry", None, "dependency:unpack", f"-Dartifact={ARTIFACT}")
