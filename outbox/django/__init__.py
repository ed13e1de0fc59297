"""outbox-relay for Django.

Put "outbox.django" into INSTALLED_APPS, run `manage.py migrate`, then:

    from django.db import transaction
    from outbox.django import add

    with transaction.atomic():
        order.save()
        add("orders", {"order": order.pk}, key=order.pk, type="order.placed")

What is written is visible on the same connection at once, so a plain TestCase can look at it. A
relay or another process sees only what was committed: such tests need TransactionTestCase.
"""

from __future__ import annotations

from outbox.errors import MissingExtra

try:
    import django as _django  # noqa: F401 - whether it can be imported is the question
except ImportError as error:
    raise MissingExtra(
        'outbox.django needs Django; run `pip install "outbox-relay[django]"`'
    ) from error

from outbox.django.databases import connection
from outbox.django.writing import add, add_all, cancel, release

__all__ = ["add", "add_all", "cancel", "connection", "release"]
