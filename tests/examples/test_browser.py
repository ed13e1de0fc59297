"""Both services, as a visitor with a browser sees them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.examples.browsing import Visit
from tests.examples.running import EXAMPLES, Examples, ask
from tests.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

#: For what does not depend on the servers.
embedded_only = pytest.mark.parametrize("examples", ["embedded"], indirect=True)

MOST_BYTES = 200_000

#: The spans of one order, as they begin, and the service that each is in.
SPANS = [
    ("shop-web", "POST /"),
    ("shop-web", "create orders"),
    ("shop-relay", "send orders"),
    ("billing-consumer", "process orders"),
    ("billing-consumer", "create invoices"),
    ("billing-relay", "send invoices"),
    ("shop-consumer", "process invoices"),
]


def test_an_order_is_seen_to_travel_until_it_is_billed_once(
    visit: Visit, examples: Examples, tmp_path: Path
) -> None:
    # Given consumers that have done something before, which takes them a second
    visit.place()
    visit.step("answered", "done")

    # When
    visit.place(customer="Ada", stand_1="2")

    # Then the page follows it by itself
    assert "in one transaction" in visit.step("written", "done")
    assert "topic orders key ada" in visit.step("published", "done")
    assert "delivered once" in visit.step("billed", "done")
    assert "through the inbox of the shop" in visit.step("answered", "done")
    assert visit.page.get_by_text("invoice issued").is_visible()

    # And billing tells the same of it
    order = ask(visit.page.url.replace("/orders/", "/api/orders/").rstrip("/"))
    billed = ask(f"{examples.billing}/api/orders/{order['order_id']}")
    assert (billed["state"], billed["deliveries"]) == ("issued", 1)
    assert (billed["message_id"], billed["trace_id"]) == (order["message_id"], order["trace_id"])

    # And so looks the picture in the README
    visit.page.locator(".trace tbody tr").nth(len(SPANS) - 1).wait_for()
    take_screenshot(visit, EXAMPLES / "django_app" / "screenshot.png", tmp_path)


def take_screenshot(
    visit: Visit, committed: Path, directory: Path, *, full_page: bool = True
) -> None:
    """Take a README's picture, and look whether the one that is there is like it."""
    update = os.environ.get("UPDATE_SCREENSHOTS") == "1"
    target = committed if update else directory / "screenshot.png"
    taken = len(visit.page.screenshot(path=target, full_page=full_page, animations="disabled"))
    assert committed.stat().st_size <= MOST_BYTES
    # Fonts differ between machines, and so does the size; a page that is broken is another size.
    assert taken / 3 < committed.stat().st_size < taken * 3


def test_its_trace_leads_through_both_services(visit: Visit) -> None:
    # When
    visit.place()
    visit.step("answered", "done")

    # Then the page shows all spans, also those that arrive last
    rows = visit.page.locator(".trace tbody tr")
    rows.nth(len(SPANS) - 1).wait_for()
    shown = [
        (row.locator(".service").inner_text(), row.locator(".name").inner_text())
        for row in rows.all()
    ]
    assert shown == SPANS
    # And they are one trace: each has its place within the one before, or beside it
    depths = [(row.locator(".name").get_attribute("class") or "")[-1] for row in rows.all()]
    assert depths == ["0", "1", "2", "2", "3", "4", "4"]


def test_an_order_that_fails_leaves_nothing_behind(visit: Visit, examples: Examples) -> None:
    # When
    visit.page.goto(visit.home)
    visit.page.get_by_label("Let this one fail").check()
    visit.send()

    # Then the page shows that both were there, and are not
    for table in ("orders", "messages"):
        cells = visit.page.locator(f"[data-table={table}] td").all_inner_texts()
        before, within, after, left = map(int, cells)
        assert (within, after, left) == (before + 1, before, 0)

    # And nobody knows of it
    visit.is_to_miss_pages = True
    visit.page.get_by_role("link", name="s page").click()
    visit.page.get_by_role("heading", name="There is nothing here").wait_for()
    visit.page.go_back()
    visit.page.get_by_role("link", name="billing knows nothing of it").click()
    visit.page.wait_for_url(f"{examples.billing}/invoices/*")
    response = visit.page.goto(visit.page.url)
    assert response is not None
    assert response.status == 404


def test_the_journey_says_what_is_and_not_what_will_be(visit: Visit, examples: Examples) -> None:
    # Given a relay that is frozen
    relay = examples.pid("shop relay")
    os.kill(relay, signal.SIGSTOP)
    try:
        # When
        visit.place()

        # Then the order waits, and so it says, though everything else runs
        visit.step("written", "done")
        assert "The relay is on its way there" in visit.step("published", "waiting")
        assert "Billing has not seen it yet" in visit.step("billed", "waiting")
        assert "no answer yet" in visit.step("answered", "waiting")
    finally:
        os.kill(relay, signal.SIGCONT)

    # And goes on when the relay does
    visit.step("published", "done")
    visit.step("answered", "done")


def test_an_order_that_is_cancelled_is_told_of(visit: Visit, examples: Examples) -> None:
    # Given
    visit.place()
    visit.step("answered", "done")
    billed = visit.page.url.replace(f"{examples.shop}/orders", f"{examples.billing}/api/orders")
    assert ask(billed.rstrip("/"))["cancelled_at"] is None

    # When
    visit.page.get_by_role("button", name="Cancel this order").click()

    # Then
    visit.page.get_by_text("the world was told").wait_for()
    assert visit.page.get_by_role("button", name="Cancel this order").count() == 0
    wait_until(lambda: ask(billed.rstrip("/"))["cancelled_at"], what="billing to hear of it")


def test_an_order_over_the_limit_is_refused(visit: Visit) -> None:
    # When
    visit.place(spinet_4="1")

    # Then
    assert "1,000.00" in visit.step("answered", "done")
    assert "Turned down once" in visit.step("billed", "done")
    assert visit.page.get_by_text("invoice refused").is_visible()


def test_the_relay_is_killed_and_every_order_is_billed_once(
    visit: Visit, examples: Examples, tmp_path: Path
) -> None:
    # When
    visit.page.goto(visit.home)
    visit.page.get_by_role("button", name="kill the relay").click()

    # Then it died while billing had a message that it had not noted
    visit.page.get_by_text("sends that message again").wait_for()
    examples.says("was killed by SIGKILL; starting it again")

    # And what is asked of everybody about every order adds up
    verdict = visit.page.url.replace("/rush/", "/api/rush/").rstrip("/")
    wait_until(
        lambda: (found := ask(verdict))["is_over"] and found["came_again"],
        what="the answers to all orders, and the message that is sent again",
    )
    found = ask(verdict)
    assert found["placed"] == found["published"] == found["billed"] == found["answered"]
    assert found["placed"] >= 12
    assert found["billed_more_than_once"] == 0

    # And billing shows what came again, as on the picture in its README
    shop = visit.page.url
    visit.page.goto(examples.billing)
    assert visit.page.get_by_role("cell", name="2 \u00d7").count() >= 1
    visit.page.set_viewport_size({"width": 1180, "height": 740})
    take_screenshot(visit, EXAMPLES / "flask_app" / "screenshot.png", tmp_path, full_page=False)

    # And the page of the shop says so, by itself
    visit.page.goto(shop)
    shown = visit.page.locator(".numbers .gold dd")
    wait_until(
        lambda: shown.inner_text() == str(ask(verdict)["came_again"]),
        what="the page to catch up",
    )


@embedded_only
def test_a_form_that_makes_no_sense_is_sent_back_with_the_reasons(visit: Visit) -> None:
    # When
    visit.place(customer="", fork_440="99")

    # Then each reason stands at its field, for screen readers too
    name = visit.page.get_by_label("Customer")
    reason = visit.page.locator("#id_customer_error")
    assert reason.inner_text() == "Say who orders: a name such as “ada”."
    assert "id_customer_error" in (name.get_attribute("aria-describedby") or "").split()
    assert visit.page.get_by_text("give a whole number from 0 to 20").is_visible()
    # And what was typed is still there
    assert visit.page.get_by_label("Tuning fork").input_value() == "99"


def test_the_admin_shows_the_message_and_changes_nothing(visit: Visit, examples: Examples) -> None:
    # Given an order
    visit.place(customer="grace")
    visit.step("written", "done")
    message = ask(visit.page.url.replace("/orders/", "/api/orders/").rstrip("/"))["message_id"]

    # When the admin is entered with what the command has printed
    visit.page.get_by_role("link", name="Admin").click()
    visit.page.get_by_label("Username").fill("admin")
    visit.page.get_by_label("Password").fill(examples.password)
    visit.page.get_by_role("button", name="Log in").click()
    visit.page.locator("#content-main").get_by_role("link", name="Messages", exact=True).click()

    # Then the message is there, to look at
    visit.page.get_by_text(message).wait_for()
    assert visit.page.get_by_role("link", name="Add message").count() == 0


@embedded_only
def test_it_can_be_used_with_the_keyboard_alone(visit: Visit) -> None:
    # Given
    page = visit.page
    page.goto(visit.home)

    # When nothing but keys are pressed
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Control+A")
    page.keyboard.type("hedy")
    for _ in range(5):
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")  # let it fail
    page.keyboard.press("ArrowUp")  # no, place it
    page.keyboard.press("Enter")

    # Then
    page.get_by_role("heading", name="hedy").wait_for()


@embedded_only
def test_it_works_without_scripts(browser: Browser, examples: Examples) -> None:
    context = browser.new_context(java_script_enabled=False)
    visit = Visit(context.new_page(), examples.shop)

    # When
    visit.place()
    visit.page.wait_for_url(f"{examples.shop}/orders/*/")

    # Then the page is as true as with them, whenever it is loaded
    def answered() -> bool:
        visit.page.reload()
        return visit.page.locator("[data-step=answered][data-state=done]").count() == 1

    wait_until(answered, what="the answer, by reloading")
    context.close()
    assert visit.complaints == []


@embedded_only
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(browser: Browser, examples: Examples, scheme: str) -> None:
    context = browser.new_context(
        viewport={"width": 360, "height": 740},
        color_scheme="light" if scheme == "light" else "dark",
    )
    visit = Visit(context.new_page(), examples.shop)
    grounds = set()
    visit.place(customer="a customer with a name that is long")
    visit.step("answered", "done")
    for url in (visit.page.url, visit.home, examples.billing):
        visit.page.goto(url)
        width = visit.page.evaluate("document.documentElement.scrollWidth")
        assert width <= 360, f"{url} is {width} pixels wide"
        grounds.add(visit.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    context.close()
    bright = [sum(map(int, ground[4:-1].split(",")[:3])) > 384 for ground in grounds]
    assert all(bright) if scheme == "light" else not any(bright)
    assert visit.complaints == []
