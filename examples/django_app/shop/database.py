"""What Django wants to know of a database, from one URL."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

#: One writer at a time: begin as a writer, so that nobody has to give up in the middle; and let
#: readers read meanwhile.
_SQLITE_OPTIONS = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 10,
    "init_command": "pragma journal_mode=wal; pragma synchronous=normal; pragma foreign_keys=on",
}


def database(url: str) -> dict[str, object]:
    """Return an entry of DATABASES for `sqlite:///PATH` or `postgresql://…`.

    Raises ValueError for anything else.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        path = unquote(rest).removeprefix("/")
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(Path(path).absolute()),
            "OPTIONS": _SQLITE_OPTIONS,
        }
    if scheme.partition("+")[0] in ("postgresql", "postgres"):
        return _postgresql(f"postgresql://{rest}")
    raise ValueError(
        f"DATABASE_URL begins with {scheme!r}; use sqlite:///PATH or postgresql://HOST/NAME"
    )


def _postgresql(url: str) -> dict[str, object]:
    from psycopg.conninfo import conninfo_to_dict

    given = conninfo_to_dict(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": given.pop("dbname", None) or urlsplit(url).path[1:],
        "USER": given.pop("user", "") or "",
        "PASSWORD": given.pop("password", "") or "",
        "HOST": given.pop("host", "") or "",
        "PORT": given.pop("port", "") or "",
        "CONN_MAX_AGE": 60,
        "OPTIONS": given,
    }
