"""Load from pgbench, which costs the machine less than writers in Python would."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from outbox.bench.draining import KEYS, PAYLOAD_BYTES
from outbox.bench.place import Place
from outbox.errors import OutboxError

_SPEED = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)


class Writers:
    """Clients that write a business row and a message in each transaction.

    `rate`: transactions a second of all together; None is as fast as they can.
    """

    def __init__(self, place: Place, clients: int, rate: int | None = None) -> None:
        self._place, self._clients, self._rate = place, clients, rate
        self._script = _script(place)
        self._program = program()

    def prepare(self) -> None:
        """Make the business table."""
        with self._place.servers.connect() as connection:
            connection.execute(f"create table {_business(self._place)} (id bigserial, note text)")

    def run(self, seconds: float) -> float:
        """Write, and return the transactions a second."""
        with self.running(seconds) as process:
            out, _ = process.communicate(timeout=seconds + 60)
        found = _SPEED.search(out)
        if process.returncode or found is None:
            raise OutboxError(f"pgbench failed: {out}")
        return float(found[1])

    @contextmanager
    def running(self, seconds: float) -> Iterator[subprocess.Popen[str]]:
        """Yield pgbench while it writes; it is ended with the block."""
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
            script.write(self._script)
            script.flush()
            process = subprocess.Popen(
                [*self._command(seconds), "--file", script.name, self._place.servers.url.conninfo],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            try:
                yield process
            finally:
                process.kill()
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()

    def _command(self, seconds: float) -> list[str]:
        rate = [] if self._rate is None else [f"--rate={self._rate}"]
        return [
            self._program,
            *("--no-vacuum", "--protocol=prepared", f"--time={max(round(seconds), 1)}"),
            *(f"--client={self._clients}", "--jobs=1", *rate),
        ]


def program() -> str:
    """Return where pgbench is."""
    if on_path := shutil.which("pgbench"):
        return on_path
    from tests.servers.postgresql_programs import default_programs

    return str(default_programs().program("pgbench"))


def _business(place: Place) -> str:
    return f'"{place.schema}".business'


def _script(place: Place) -> str:
    return f"""\\set key random(1, {KEYS})
begin;
insert into {_business(place)} (note) values ('written together with the message');
insert into {place.names["outbox_message"]} (topic, key, payload)
values ('{place.topic}', 'key-' || :key, '{"x" * PAYLOAD_BYTES}');
commit;
"""
