"""PgBouncer in transaction mode, in front of a PostgreSQL."""

from __future__ import annotations

import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg

from tests.servers.availability import ServerUnavailableError
from tests.servers.ports import free_port
from tests.servers.postgresql_programs import server_account, temporary_root
from tests.servers.process import ServerProcess

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

#: Debian puts it where not everybody's PATH looks.
PLACES = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"

CONFIGURATION = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {pool_size}
logfile =
pidfile =
"""


class PgBouncer:
    """A pooler for all databases of one server. Use it as a context manager.

    `pool_size` server connections a database: with few, statements of one client soon go to
    different ones.
    """

    def __init__(self, database_url: str, *, pool_size: int = 3) -> None:
        program = shutil.which(
            "pgbouncer", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"
        )
        if program is None:
            raise ServerUnavailableError("no PgBouncer: install Debian's package `pgbouncer`")
        self._program = program
        self._database = urlsplit(database_url)
        self._pool_size = pool_size
        self._account = server_account()
        self._home = Path(tempfile.mkdtemp(prefix="outbox-pgbouncer-", dir=temporary_root()))
        self._port = free_port()
        self._process: ServerProcess | None = None

    @property
    def url(self) -> str:
        """The database's URL through the pooler."""
        netloc = f"{self._database.username}@127.0.0.1:{self._port}"
        return self._database._replace(netloc=netloc).geturl()

    def __enter__(self) -> Self:
        configuration = self._home / "pgbouncer.ini"
        configuration.write_text(
            CONFIGURATION.format(
                host=self._database.hostname,
                port=self._database.port,
                user=self._database.username,
                own_port=self._port,
                pool_size=self._pool_size,
            )
        )
        if self._account:
            self._account.owns(self._home)
        self._process = ServerProcess(
            [self._program, str(configuration)],
            directory=self._home,
            log=self._home / "server.log",
            account=self._account,
        )
        try:
            self._process.wait_until(self._is_ready, what="PgBouncer", timeout=20)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.end(signal.SIGINT, patience=10)
        shutil.rmtree(self._home, ignore_errors=True)

    def _is_ready(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True
