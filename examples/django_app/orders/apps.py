"""The application."""

from __future__ import annotations

from django.apps import AppConfig
from shop.tracing import set_up_tracing


class OrdersConfig(AppConfig):
    """Orders, as INSTALLED_APPS knows them."""

    name = "orders"

    def ready(self) -> None:
        """Trace, in every process of the shop."""
        set_up_tracing()
