"""manage.py let_me_in"""

from __future__ import annotations

import os

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError


class Command(BaseCommand):
    """Makes the user `admin`, for a first look at the admin."""

    help = "Make the user admin with the password in SHOP_ADMIN_PASSWORD, or change it to that."

    def handle(self, *_: object, **__: object) -> None:
        """Make the user or change the password."""
        password = os.environ.get("SHOP_ADMIN_PASSWORD")
        if not password:
            raise CommandError("SHOP_ADMIN_PASSWORD is not set: say which password to use")
        user, _made = get_user_model().objects.get_or_create(
            username="admin", defaults={"is_staff": True, "is_superuser": True}
        )
        user.set_password(password)
        user.save()
