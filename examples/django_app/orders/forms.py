"""The form an order is placed with."""

from __future__ import annotations

import re
from decimal import Decimal

from django import forms

from orders.catalogue import CATALOGUE, Article

MOST_OF_ONE = 20


class OrderForm(forms.Form):
    """Who orders how much of what, and what is to become of it."""

    PLACE, FAIL = "place", "fail"

    customer = forms.CharField(
        label="Customer",
        max_length=40,
        initial="ada",
        strip=True,
        help_text="All messages about one customer stay in order.",
        error_messages={"required": "Say who orders: a name such as “ada”."},
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    outcome = forms.ChoiceField(
        label="What is to become of it?",
        choices=[
            (PLACE, "Place it"),
            (FAIL, "Let this one fail, after order and message were written"),
        ],
        initial=PLACE,
        required=False,
        widget=forms.RadioSelect,
    )

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        for article in CATALOGUE:
            self.fields[article.sku] = _quantity(article)

    @property
    def quantities(self) -> list[tuple[Article, forms.BoundField]]:
        """The articles, each with the field for how many."""
        return [(article, self[article.sku]) for article in CATALOGUE]

    def clean_customer(self) -> str:
        """Return the name in the form that is used as a key."""
        name = self.cleaned_data["customer"].lower()
        if not re.fullmatch(r"[^\W_][\w .'-]*", name):
            raise forms.ValidationError(
                "Use letters, digits, spaces and . ' - only, beginning with a letter or digit."
            )
        return name

    def clean(self) -> dict[str, object]:
        """Refuse an order of nothing."""
        cleaned = super().clean()
        wrong = any(article.sku in self.errors for article in CATALOGUE)
        if not wrong and not self.basket:
            raise forms.ValidationError("The basket is empty: choose at least one article.")
        return cleaned

    @property
    def basket(self) -> list[tuple[Article, int]]:
        """What is ordered, without the articles of which there are none."""
        given = [(article, self.cleaned_data.get(article.sku) or 0) for article in CATALOGUE]
        return [(article, quantity) for article, quantity in given if quantity]

    @property
    def amount(self) -> Decimal:
        """What it costs altogether."""
        return sum((article.price * quantity for article, quantity in self.basket), Decimal(0))

    @property
    def is_to_fail(self) -> bool:
        """Whether the transaction is to be rolled back."""
        return self.cleaned_data["outcome"] == self.FAIL


def _quantity(article: Article) -> forms.IntegerField:
    whole = f"{article.title}: give a whole number from 0 to {MOST_OF_ONE}."
    return forms.IntegerField(
        label=article.title,
        min_value=0,
        max_value=MOST_OF_ONE,
        required=False,
        initial=1 if article.sku == CATALOGUE[0].sku else 0,
        error_messages={"invalid": whole, "min_value": whole, "max_value": whole},
        widget=forms.NumberInput(attrs={"inputmode": "numeric"}),
    )
