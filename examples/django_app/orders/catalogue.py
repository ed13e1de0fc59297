"""What the shop sells. Prices include everything."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

CURRENCY = "EUR"


@dataclass(frozen=True)
class Article:
    """Something to buy."""

    sku: str
    title: str
    price: Decimal


CATALOGUE = (
    Article("fork-440", "Tuning fork, 440 Hz", Decimal("12.50")),
    Article("strings-e", "Set of strings", Decimal("24.90")),
    Article("stand-1", "Music stand", Decimal("59.00")),
    Article("spinet-4", "Spinet, four octaves", Decimal("1450.00")),
)
BY_SKU = {article.sku: article for article in CATALOGUE}
