"""Copies of a PostgreSQL server: a standby that follows it, and a copy of its files."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import psycopg

from tests.servers.availability import ServerFailedError
from tests.servers.postgresql import PrivatePostgreSQL
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping


class Standby(PrivatePostgreSQL):
    """A hot standby of a running server. `create` copies it and begins to follow."""

    def __init__(
        self,
        primary: PrivatePostgreSQL,
        *,
        name: str = "standby",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(primary.version.partition(".")[0], settings)
        self._primary = primary
        self._name = name

    def _initialize(self) -> None:
        if self._account:
            self._account.owns(self._home)
        follow = f"host=127.0.0.1 port={self._primary.port} user=postgres"
        command = [
            *[self.program("pg_basebackup"), "-D", self.data_directory, "-R", "-X", "stream"],
            *["--checkpoint=fast", "--no-sync"],
            *["-d", f"{follow} application_name={self._name}"],
        ]
        account = self._account.arguments if self._account else {}
        made = subprocess.run(command, cwd=self._home, capture_output=True, text=True, **account)  # type: ignore[call-overload] # the account's arguments are chosen at run time
        if made.returncode:
            raise ServerFailedError(f"pg_basebackup failed: {made.stderr}")

    def wait_until_caught_up(self) -> None:
        """Wait until everything that the primary has written is replayed here."""
        with psycopg.connect(self._primary.url("postgres")) as primary:
            row = primary.execute("select pg_current_wal_flush_lsn()::text").fetchone()
        assert row is not None
        with psycopg.connect(self.url("postgres"), autocommit=True) as standby:
            query = "select pg_last_wal_replay_lsn() >= %s::pg_lsn"
            wait_until(
                lambda: standby.execute(query, row).fetchone() == (True,),
                what="the standby to have replayed everything",
            )

    def promote(self) -> None:
        """Make it a primary, on a timeline of its own."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as standby:
            standby.execute("select pg_promote()")


class CopiedVolume(PrivatePostgreSQL):
    """A server on a copy of another one's files, taken while that one is down."""

    def __init__(self, original: PrivatePostgreSQL) -> None:
        super().__init__(original.version.partition(".")[0])
        self._original = original

    def _initialize(self) -> None:
        assert not self._original.running, "stop or kill the server first"
        shutil.copytree(self._original.data_directory, self.data_directory)
        (self.data_directory / "postmaster.pid").unlink(missing_ok=True)
        if self._account:
            self._account.owns(self._home)
            for path in self._home.rglob("*"):
                self._account.owns(path)
        self.data_directory.chmod(0o700)
