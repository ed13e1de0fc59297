"""PostgreSQL servers: one to share, and private ones that a test may break."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from tests.servers.availability import ServerFailedError
from tests.servers.ports import free_port
from tests.servers.postgresql_programs import (
    programs_for,
    programs_of,
    server_account,
    temporary_root,
)
from tests.servers.process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType
    from typing import Self

SETTINGS = {
    "fsync": "on",
    "listen_addresses": "127.0.0.1",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
    "log_min_messages": "warning",
    "max_connections": "200",
    "max_prepared_transactions": "64",
    "shared_buffers": "128MB",
    "unix_socket_directories": "",
}
START_TIMEOUT = 60.0  # seconds, crash recovery included
STOP_TIMEOUT = 30.0
PORT_ATTEMPTS = 5


class PostgreSQLServer:
    """A running server, known by its address alone."""

    def __init__(self, address: str) -> None:
        self._address = urlsplit(address)

    def url(self, database: str) -> str:
        """Return the URL of a database on this server, existing or not."""
        return urlunsplit(self._address._replace(scheme="postgresql", path=f"/{database}"))

    @property
    def version(self) -> str:
        """The server's version, such as "15.18"."""
        with self._administrator() as connection:
            return str(connection.info.parameter_status("server_version")).split()[0]

    def create_database(self, name: str | None = None) -> str:
        """Create an empty database, under a random name unless one is given; return its URL."""
        name = name or f"test_{secrets.token_hex(6)}"
        with self._administrator() as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database with all that hangs on it: sessions and prepared transactions."""
        with self._administrator() as connection:
            found = connection.execute("select from pg_database where datname = %s", [name])
            if found.rowcount == 0:
                return
            self._roll_back_prepared(name)
            drop = sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
            connection.execute(drop)

    def _roll_back_prepared(self, database: str) -> None:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            prepared = connection.execute(
                "select gid from pg_prepared_xacts where database = current_database()"
            ).fetchall()
            for (gid,) in prepared:
                connection.execute(sql.SQL("rollback prepared {}").format(sql.Literal(gid)))

    @contextlib.contextmanager
    def _administrator(self) -> Iterator[psycopg.Connection]:
        database = self._address.path.strip("/") or "postgres"
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            yield connection


class PrivatePostgreSQL(PostgreSQLServer):
    """A server of one's own, to be stopped, killed and started again on the same port and data.

    `version` is a major version such as "18"; `settings` go to postgresql.conf. Use it as a
    context manager, or call `create`, `start` and at last `close`.
    """

    def __init__(
        self, version: str | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        self._account = server_account()
        self._programs = programs_for(programs_of(version), self._account)
        self._settings = {**SETTINGS, **(settings or {})}
        self._process: ServerProcess | None = None
        self._home = Path(tempfile.mkdtemp(prefix="outbox-postgresql-", dir=temporary_root()))
        self._use_port(0)

    def _use_port(self, port: int) -> None:
        self.port = port
        super().__init__(f"postgresql://postgres@127.0.0.1:{port}/postgres")

    @property
    def version(self) -> str:
        """The server's version, such as "15.18", also while it is down."""
        return self._programs.version

    @property
    def data_directory(self) -> Path:
        """Where the server keeps its files."""
        return self._home / "data"

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        return self._required_process.pid

    @property
    def running(self) -> bool:
        """Whether the postmaster lives."""
        return self._process is not None and self._process.running

    def program(self, name: str) -> Path:
        """Return the path of one of PostgreSQL's programs, such as `pgbench`."""
        return self._programs.program(name)

    def create(self) -> None:
        """Make the data directory and start on a free port."""
        try:
            self._initialize()
            self._start_on_free_port()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start on the same port and wait until the server takes connections."""
        assert not self.running, "the server runs already"
        self._process = ServerProcess(
            [str(self.program("postgres")), "-D", str(self.data_directory), "-p", str(self.port)],
            directory=self._home,
            log=self._home / "server.log",
            account=self._account,
            orphan_signal=signal.SIGQUIT,
        )
        what = f"PostgreSQL {self.version} on port {self.port}"
        self._process.wait_until(self._is_ready, what=what, timeout=START_TIMEOUT)

    def stop(self) -> None:
        """Shut down in the fast mode: sessions are ended, a checkpoint is written."""
        if self.running:
            self._required_process.end(signal.SIGINT, patience=STOP_TIMEOUT)

    def kill(self) -> None:
        """SIGKILL the postmaster and all of its processes."""
        if self.running:
            self._required_process.kill()

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def log_tail(self) -> str:
        """Return the end of the server's log."""
        return self._required_process.tail()

    def close(self) -> None:
        """Stop for good and remove the data."""
        self.kill()
        shutil.rmtree(self._home, ignore_errors=True)

    def __enter__(self) -> Self:
        self.create()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _required_process(self) -> ServerProcess:
        assert self._process is not None, "the server was never started"
        return self._process

    def _initialize(self) -> None:
        if self._account:
            self._account.owns(self._home)
        command = [
            *[self.program("initdb"), "-D", self.data_directory, "-U", "postgres"],
            *["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"],
        ]
        account = self._account.arguments if self._account else {}
        made = subprocess.run(command, cwd=self._home, capture_output=True, text=True, **account)  # type: ignore[call-overload] # the account's arguments are chosen at run time
        if made.returncode:
            raise ServerFailedError(f"initdb failed: {made.stdout}{made.stderr}")
        lines = [f"{name} = '{value}'\n" for name, value in self._settings.items()]
        with (self.data_directory / "postgresql.conf").open("a") as configuration:
            configuration.writelines(lines)

    def _start_on_free_port(self) -> None:
        for attempt in range(1, PORT_ATTEMPTS + 1):
            self._use_port(free_port())
            try:
                return self.start()
            except ServerFailedError as failure:
                if attempt == PORT_ATTEMPTS or "could not bind" not in str(failure):
                    raise
        raise AssertionError("unreachable")

    def _is_ready(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True
