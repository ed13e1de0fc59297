"""Orders in the admin: to look at. Beside them stand the messages, by outbox.django."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest

from orders.models import Order, OrderLine


class LinesInline(admin.TabularInline):
    """The lines of an order."""

    model = OrderLine
    can_delete = False
    extra = 0

    def has_add_permission(self, request: HttpRequest, obj: object = None) -> bool:  # noqa: ARG002 - Django's signature
        """Orders are placed in the shop."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:  # noqa: ARG002 - Django's signature
        """Orders change by messages."""
        return False


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    """A list of orders."""

    list_display = ("id", "customer", "amount", "state", "placed_at")
    list_filter = ("state", "placed_at")
    search_fields = ("id", "customer", "message_id")
    inlines = (LinesInline,)

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002 - Django's signature
        """Orders are placed in the shop."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:  # noqa: ARG002 - Django's signature
        """Orders change by messages."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:  # noqa: ARG002 - Django's signature
        """An order that was told of cannot be untold."""
        return False
