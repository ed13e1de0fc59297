"""What a visitor sees, without a browser."""

from __future__ import annotations

import uuid

import pytest
from django.test import Client, TestCase, override_settings
from orders.models import Order

BASKET = {"customer": "ada", "fork-440": "1", "outcome": "place"}


#: Nobody listens there.
NOWHERE = "http://127.0.0.1:1"


@override_settings(BILLING_URL=NOWHERE)
class PagesTest(TestCase):
    def test_an_order_is_placed_and_shown(self) -> None:
        # When
        page = self.client.post("/", BASKET, follow=True)

        # Then
        assert page.redirect_chain == [(f"/orders/{Order.objects.get().id}/", 302)]
        self.assertContains(page, "s order, 12.50 EUR")
        # And honest about what has not happened
        steps = {step.name: step.state for step in page.context["journey"].steps}
        assert steps == {
            "written": "done",
            "published": "waiting",
            "billed": "unknown",  # nobody is there to be asked
            "answered": "waiting",
        }
        self.assertContains(page, "No relay is running. The message waits; nothing is lost.")

    def test_a_failure_is_shown_with_evidence(self) -> None:
        page = self.client.post("/", BASKET | {"outcome": "fail"}, follow=True)
        assert page.redirect_chain == [("/failed/", 302)]
        assert page.context["left"] == {"orders": 0, "messages": 0}
        assert page.context["attempt"]["within"] == {"orders": 1, "messages": 1}

    def test_an_order_that_does_not_exist_is_a_page_that_says_so(self) -> None:
        page = self.client.get(f"/orders/{uuid.uuid4()}/")
        self.assertContains(page, "leaves nothing behind", status_code=404)

    def test_a_form_without_its_mark_is_refused_in_words(self) -> None:
        page = Client(enforce_csrf_checks=True).post("/", BASKET)
        self.assertContains(page, "Nothing was written", status_code=403)

    def test_without_a_process_to_kill_there_is_nothing_to_press(self) -> None:
        self.assertNotContains(self.client.get("/"), "kill the relay")
        assert self.client.post("/rush/").status_code == 404


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"customer": " "}, "Say who orders"),
        ({"customer": "<b>"}, "Use letters, digits, spaces"),
        ({"customer": "a" * 41}, "at most 40 characters"),
        ({"fork-440": "21"}, "give a whole number from 0 to 20"),
        ({"fork-440": "-1"}, "give a whole number from 0 to 20"),
        ({"fork-440": "many"}, "give a whole number from 0 to 20"),
        ({"fork-440": "0"}, "The basket is empty"),
        ({"outcome": "explode"}, "is not one of the available choices"),
    ],
)
def test_a_form_that_makes_no_sense_is_refused_in_words(
    client: Client, change: dict[str, str], complaint: str
) -> None:
    page = client.post("/", BASKET | change)
    assert complaint in page.content.decode()
    assert not Order.objects.exists()
