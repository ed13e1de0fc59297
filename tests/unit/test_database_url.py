"""Database URLs are understood in every usual form, and never give a password away."""

from __future__ import annotations

from pathlib import Path

import pytest

from outbox.database import DatabaseUrl, connect_postgresql, connect_sqlite
from outbox.errors import ConfigurationError, DatabaseUnavailable, SchemaMissing


@pytest.mark.parametrize(
    ("text", "conninfo"),
    [
        ("postgresql://u:p@h:5433/db", "user=u password=p host=h port=5433 dbname=db"),
        ("postgres://u@h/db", "user=u host=h dbname=db"),
        ("postgresql+psycopg://h/db", "host=h dbname=db"),
        ("postgresql+asyncpg://h/db?ssl=require", "host=h dbname=db sslmode=require"),
        ("postgresql+asyncpg://h/db?prepared_statement_cache_size=0", "host=h dbname=db"),
        ("POSTGRESQL://h/db", "host=h dbname=db"),
        ("postgresql://", ""),
        ("postgresql:///db", "dbname=db"),
        ("postgresql://u:p%40%20x@h/d%2Fb", "user=u password='p@ x' host=h dbname=d/b"),
        ("postgresql://a:1,b:2/db", "host=a,b port=1,2 dbname=db"),
        ("postgresql:///db?host=a:1&host=b:2", "dbname=db host=a,b port=1,2"),
        ("postgresql:///db?host=/run/postgresql", "dbname=db host=/run/postgresql"),
        ("postgresql://[::1]:5432/db", "host=::1 port=5432 dbname=db"),
        ("postgresql://h/db?sslmode=verify-full", "host=h dbname=db sslmode=verify-full"),
        ("host=h dbname = 'my db' password='it\\'s'", "host=h dbname='my db' password='it\\'s'"),
        ("host=h password=a://b", "host=h password=a://b"),
        ("", ""),
    ],
)
def test_postgresql_is_understood(text: str, conninfo: str) -> None:
    url = DatabaseUrl.parse(text)
    assert (url.dialect, url.conninfo) == ("postgresql", conninfo)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("sqlite:///shop.db", "shop.db"),
        ("sqlite:////var/shop.db", "/var/shop.db"),
        ("sqlite+aiosqlite:///shop.db?timeout=5", "shop.db"),
        ("sqlite:///C:\\shop.db", "C:\\shop.db"),
    ],
)
def test_sqlite_is_understood(text: str, path: str) -> None:
    url = DatabaseUrl.parse(text)
    assert (url.dialect, url.path) == ("sqlite", path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mysql://u:hunter2@h/db", "'mysql' is not a database this version knows"),
        ("hunter2", "neither a URL nor key=value"),
        ("password=my hunter2", "neither a URL nor key=value"),
        ("postgresql://u:hunter2/x@h/db", "percent-encoded"),
        ("postgresql://u:hunter2#x@h/db", "percent-encoded"),
        ("postgresql://u:hunter2[@h/db", "percent-encoded"),
        ("postgresql://u:hunter2@h:port/db", "port is not a number"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite://shop.db", "three slashes"),
        ("sqlite:///file:shop.db?uri=true", "three slashes"),
    ],
)
def test_a_wrong_url_is_refused_without_repeating_it(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        DatabaseUrl.parse(text)
    assert words in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_no_form_of_text_shows_a_secret() -> None:
    url = DatabaseUrl.parse("postgresql://u:hunter2@h/db?sslpassword=hunter2")
    assert "hunter2" not in f"{url} {url!r} {url.redacted}"
    assert "user=u password=*** host=h" in str(url)


def test_an_unknown_parameter_is_a_matter_of_configuration() -> None:
    with pytest.raises(ConfigurationError, match="nonsense"):
        connect_postgresql(DatabaseUrl.parse("postgresql://127.0.0.1:1/db?nonsense=1"))


def test_a_refused_connection_is_said_in_one_sentence() -> None:
    with pytest.raises(DatabaseUnavailable) as caught:
        connect_postgresql(DatabaseUrl.parse("postgresql://u:hunter2@127.0.0.1:1/db"))
    assert "\n" not in str(caught.value)
    assert "Connection refused" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_password_callback_that_fails_may_be_a_matter_of_time() -> None:
    def fail() -> str:
        raise RuntimeError("no token")

    with pytest.raises(DatabaseUnavailable, match="callback failed: RuntimeError: no token"):
        connect_postgresql(DatabaseUrl.parse(""), password_callback=fail)


def test_sqlite_is_opened_as_the_log_needs_it(tmp_path: Path) -> None:
    connection = connect_sqlite(str(tmp_path / "new.db"), create=True)
    assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
    assert connection.execute("pragma foreign_keys").fetchone() == (1,)
    assert connection.execute("pragma busy_timeout").fetchone() == (30_000,)
    assert connection.isolation_level is None
    connection.close()


def test_sqlite_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="directory"):
        connect_sqlite(str(tmp_path / "nowhere" / "x.db"), create=True)
    with pytest.raises(SchemaMissing, match="migrate"):
        connect_sqlite(str(tmp_path / "x.db"))
    (tmp_path / "text.db").write_text("this is not a database, not even nearly" * 30)
    with pytest.raises(ConfigurationError, match="not a database"):
        connect_sqlite(str(tmp_path / "text.db"))
