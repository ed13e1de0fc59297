"""A bank under load: transfers by PostgreSQL's own pgbench, each with a message in plain SQL.

A transfer draws the next number of the account that is debited, whose row it has locked, so the
true order of each key is known: 1, 2, 3, … Some transactions roll back, some are slow before or
after they write their message, some use savepoints.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg

from outbox.migrations import migrate
from tests.acceptance.command import environment
from tests.waiting import wait_until

if TYPE_CHECKING:
    from typing import Self

    from tests.servers.postgresql import PrivatePostgreSQL

ACCOUNTS = 50
CLIENTS = 8
BALANCE = 1_000_000
RATE = 300  # transactions a second, so that everything fits on a small machine
NEVER = 1_000_000_000  # an amount that only transactions have that are rolled back

_TABLES: LiteralString = """
    create table account (
        id int primary key, balance bigint not null, number bigint not null default 0);
    create table transfer (
        place bigint generated always as identity, id uuid default gen_random_uuid(),
        source int, target int, amount bigint, number bigint);
    """
_FILL: LiteralString = """
    insert into account (id, balance) select i, %(balance)s from generate_series(1, %(n)s) as i"""

_CHOOSE = f"""
\\set source random(1, {ACCOUNTS})
\\set target 1 + (:source + random(0, {ACCOUNTS - 2})) % {ACCOUNTS}
\\set amount random(1, 100)
\\set pause random(1, 150)
"""
_LOCK = """
select from account where id in (:source, :target) order by id for update;
"""


def _transfer(amount: str) -> str:
    return f"""
update account set balance = balance + {amount} where id = :target;
update account set balance = balance - {amount}, number = number + 1
 where id = :source returning number \\gset
with made as (
    insert into transfer (source, target, amount, number)
    values (:source, :target, {amount}, :number) returning *)
insert into outbox_message (id, topic, key, type, content_type, headers, payload)
select id, 'transfers', source::text, 'transfer.made', 'application/json',
       jsonb_build_object('branch', 'north'),
       convert_to(jsonb_build_object('source', source, 'target', target, 'amount', amount,
                                     'number', number)::text, 'UTF8')
  from made;
"""


_REAL, _UNREAL = _transfer(":amount"), _transfer(str(NEVER))
_REAL_INSIDE = f"savepoint b;{_REAL}release b;\n\\sleep :pause us\n"
#: What pgbench runs, and how often each.
SCRIPTS = {
    "commit": (60, f"{_CHOOSE}begin;{_LOCK}{_REAL}commit;"),
    "roll_back": (15, f"{_CHOOSE}begin;{_LOCK}{_UNREAL}rollback;"),
    "slow_before": (
        10,
        f"{_CHOOSE}begin;\nselect pg_current_xact_id();\n\\sleep :pause ms\n{_LOCK}{_REAL}commit;",
    ),
    "slow_after": (5, f"{_CHOOSE}begin;{_LOCK}{_REAL}\\sleep :pause ms\ncommit;"),
    "savepoint": (
        10,
        f"{_CHOOSE}begin;{_LOCK}savepoint a;{_UNREAL}rollback to a;{_REAL_INSIDE}commit;",
    ),
}


@dataclass
class Bank:
    """Two databases on one server: where the transfers are made, and where they are repeated."""

    server: PrivatePostgreSQL
    directory: Path
    url: str = field(init=False)
    branch_url: str = field(init=False)

    def __post_init__(self) -> None:
        self.url = self.server.create_database("bank")
        self.branch_url = self.server.create_database("branch")
        migrate(self.url, only="outbox")
        migrate(self.branch_url, only="inbox")
        for url in (self.url, self.branch_url):
            with psycopg.connect(url) as connection:
                connection.execute(_TABLES)
                connection.execute(_FILL, {"balance": BALANCE, "n": ACCOUNTS})
        for name, (_, script) in SCRIPTS.items():
            (self.directory / f"{name}.sql").write_text(script)

    def balances(self, url: str) -> dict[int, int]:
        """Return the balance of each account."""
        return {int(row[0]): int(row[1]) for row in _rows(url, "select id, balance from account")}

    def numbers(self) -> dict[str, int]:
        """Return how many transfers were made from each account."""
        return {
            str(row[0]): int(row[1]) for row in _rows(self.url, "select id, number from account")
        }

    def terms(self) -> int:
        """Return how often a relay took the lane."""
        return int(_rows(self.url, "select epoch from outbox_cursor")[0][0])

    def rolled_back(self) -> int:
        """Return how many messages were written and not committed."""
        query: LiteralString = """
            select (select last_value from outbox_message_seq) - count(*) from outbox_message"""
        return int(_rows(self.url, query)[0][0])

    def transfers(self, url: str) -> list[Transfer]:
        """Return what was done, in the order in which it was done."""
        query: LiteralString = """
            select id::text, source, target, amount, number from transfer order by place"""
        return [Transfer(*row) for row in _rows(url, query)]


@dataclass(frozen=True, order=True)
class Transfer:
    """A transfer as it is written in the books."""

    id: str
    source: int
    target: int
    amount: int
    number: int


class Load:
    """pgbench, started again as often as the database goes away under it; use with `with`."""

    def __init__(self, bank: Bank, seed: int) -> None:
        self._bank = bank
        self._seed = seed
        self._stop = threading.Event()
        self._executor = ThreadPoolExecutor(1)
        self.rounds = 0
        self.seconds = 0.0  # that pgbench ran

    def __enter__(self) -> Self:
        self._running = self._executor.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._executor.shutdown()
        self._running.result()
        # What was sent before the end may still be committed after it.
        wait_until(lambda: not self._sessions(), what="the end of pgbench's sessions")

    def _sessions(self) -> list[tuple[Any, ...]]:
        query: LiteralString = "select pid from pg_stat_activity where application_name = 'pgbench'"
        return _rows(self._bank.url, query)

    def _run(self) -> None:
        while not self._stop.is_set():
            wait_until(self._may_begin, what="the database")
            self.rounds += 1
            self._round()

    def _may_begin(self) -> bool:
        try:
            psycopg.connect(self._bank.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return self._stop.is_set()
        return True

    def _round(self) -> None:
        with (self._bank.directory / "pgbench.log").open("w+") as log:
            pgbench = subprocess.Popen(
                self._command(), cwd=self._bank.directory, stdout=log, stderr=log
            )
            while pgbench.poll() is None and not self._stop.is_set():
                began = time.monotonic()
                self._stop.wait(0.05)
                self.seconds += time.monotonic() - began
            pgbench.terminate()
            pgbench.wait()
            log.seek(0)
            # 2: clients were cut off; a start while the database goes away ends with 1.
            assert pgbench.returncode in (0, 1, 2, -15), log.read()

    def _command(self) -> list[str]:
        scripts = [f"--file={name}.sql@{weight}" for name, (weight, _) in SCRIPTS.items()]
        return [
            str(self._bank.server.program("pgbench")),
            *["--no-vacuum", f"--client={CLIENTS}", f"--rate={RATE}", "--time=120", *scripts],
            *[f"--random-seed={self._seed + self.rounds}", self._bank.url],
        ]


class Consumer:
    """The consumer's process, which may be killed and comes back."""

    def __init__(self, bank: Bank, bootstrap_servers: str, topic: str) -> None:
        url = bank.branch_url.replace("postgresql://", "postgresql+psycopg://")
        program = Path(__file__).with_name("bank_consumer.py")
        self._command = [sys.executable, str(program), url, bootstrap_servers, topic]
        self._log = bank.directory / "consumer.log"
        self._start()

    def _start(self) -> None:
        with self._log.open("a") as log:
            self._process = subprocess.Popen(self._command, env=environment(), stderr=log)

    def said(self) -> str:
        """Return the end of its log; it must not have ended by itself."""
        text = self._log.read_text()[-3000:]
        assert self._process.poll() is None, text
        return text

    def kill(self) -> None:
        """SIGKILL, and start again."""
        self.said()
        self._process.kill()
        self._process.wait()
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(15)
        finally:
            self._process.kill()
            self._process.wait()


def _rows(url: str, sql: LiteralString) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(sql).fetchall()
