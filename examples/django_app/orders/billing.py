"""What the billing service says when it is asked."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass
from http import HTTPStatus

from django.conf import settings

_PATIENCE_S = 2.0


@dataclass(frozen=True)
class Billed:
    """What became of an order there; `deliveries` counts how often the message came."""

    state: str
    deliveries: int
    message_id: str
    invoice_id: str
    received_at: str


class BillingUnavailable(Exception):
    """Billing did not answer."""


def ask(order_id: uuid.UUID) -> Billed | None:
    """Return what billing knows of an order, None if nothing. Raises BillingUnavailable."""
    url = f"{settings.BILLING_URL}/api/orders/{order_id}"
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE_S) as answer:  # noqa: S310 - our setting
            return _billed(json.load(answer))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == HTTPStatus.NOT_FOUND:
            return None
        raise BillingUnavailable(f"{url} answered {error.code} {error.reason}") from error
    except (OSError, ValueError, KeyError) as error:
        raise BillingUnavailable(f"{url}: {getattr(error, 'reason', error)}") from error


def _billed(answer: dict[str, object]) -> Billed:
    return Billed(
        state=str(answer["state"]),
        deliveries=int(str(answer["deliveries"])),
        message_id=str(answer["message_id"]),
        invoice_id=str(answer.get("invoice_id") or ""),
        received_at=str(answer.get("received_at") or ""),
    )
