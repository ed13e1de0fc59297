"""manage.py outbox_migrate"""

from __future__ import annotations

from outbox.django.commands import PassingCommand


class Command(PassingCommand):
    """The command."""

    help = "Create, upgrade, check or repair the tables, as `outbox-relay migrate` does."
    stands_for = "migrate"
