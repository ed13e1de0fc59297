"""The examples, embedded and in the real setup, and a browser to look at them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.examples.browsing import Visit, chromium, chromium_path
from tests.examples.running import Examples
from tests.servers.availability import require

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser

REAL = pytest.param("real", marks=[pytest.mark.postgresql, pytest.mark.kafka])


# Not for the session: while it is open, playwright's event loop keeps others from running.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Give Chromium."""
    with chromium(require(chromium_path)) as opened:
        yield opened


@pytest.fixture(scope="module", params=["embedded", REAL])
def examples(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Examples]:
    """Give both services: with nothing but the checkout, and with PostgreSQL and Kafka."""
    require(chromium_path)  # before anything is started
    if request.param == "embedded":
        yield from _embedded(tmp_path_factory.mktemp("examples"))
        return
    server = request.getfixturevalue("postgresql_server")
    kafka = request.getfixturevalue("kafka")
    shop, billing = server.create_database(), server.create_database()
    with Examples(
        DATABASE_URL_SHOP=shop,
        DATABASE_URL_BILLING=billing,
        KAFKA_BOOTSTRAP_SERVERS=kafka.bootstrap_servers,
    ) as running:
        yield running.ready()
    for url in (shop, billing):
        server.drop_database(urlsplit(url).path[1:])


def _embedded(directory: Path) -> Iterator[Examples]:
    with Examples(TMPDIR=str(directory)) as running:
        yield running.ready()
        # In the end it stops by Ctrl-C, and leaves nothing behind.
        assert len(list(directory.iterdir())) == 1
        assert running.stop() == 0
    assert running.lines[-1] == "stopped\n"
    assert list(directory.iterdir()) == []


@pytest.fixture
def visit(browser: Browser, examples: Examples) -> Iterator[Visit]:
    """Give a visit to the shop that goes without a complaint."""
    context = browser.new_context(viewport={"width": 1180, "height": 900}, color_scheme="light")
    made = Visit(context.new_page(), examples.shop)
    yield made
    context.close()
    assert made.complaints == []
