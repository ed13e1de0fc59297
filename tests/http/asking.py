"""Ask a relay's endpoints."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.command import Running
from tests.waiting import wait_until

LISTENS = "health and metrics at http://"


@dataclass(frozen=True)
class Endpoints:
    """Where one relay answers."""

    port: int

    def get(self, path: str) -> tuple[int, str]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def status(self, path: str) -> int:
        return self.get(path)[0]

    @property
    def health(self) -> Any:
        return json.loads(self.get("/healthz")[1])

    @property
    def series(self) -> dict[str, list[tuple[dict[str, str], float]]]:
        """Return the labels and values of each series, by its name."""
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
        return found

    def value(self, name: str, **labels: str) -> float | None:
        """Return the value of the first series that has these labels, or None."""
        for found, value in self.series.get(name, []):
            if labels.items() <= found.items():
                return value
        return None

    def becomes(self, path: str, status: int, timeout: float = 30.0) -> None:
        wait_until(
            lambda: self.status(path) == status, what=f"{status} from {path}", timeout=timeout
        )


def endpoints_of(running: Running) -> Endpoints:
    """Wait until a relay says where it listens."""
    running.says(LISTENS)
    line = next(line for line in running.lines if LISTENS in line)
    return Endpoints(int(line.rsplit(":", 1)[1].strip().rstrip('"}')))
