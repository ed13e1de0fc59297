"""The tests in `suite` run in a process of their own: Django's settings are the process's."""

from __future__ import annotations

import os

SUITE_SETTINGS = "tests.django.suite.settings"

collect_ignore = [] if os.environ.get("DJANGO_SETTINGS_MODULE") == SUITE_SETTINGS else ["suite"]
