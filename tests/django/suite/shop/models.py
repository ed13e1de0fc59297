"""What the shop keeps."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """An order."""

    customer = models.TextField()

    def __str__(self) -> str:
        return self.customer
