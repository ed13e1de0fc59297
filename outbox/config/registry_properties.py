"""Properties of the client of a schema registry: which there are, of what kind, which secret."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

from outbox.errors import ConfigurationError

VARIABLE_PREFIX = "OUTBOX_REGISTRY_"

_NUMBERS = frozenset(
    {
        "timeout",
        "cache.capacity",
        "cache.latest.ttl.sec",
        "max.retries",
        "retries.wait.ms",
        "retries.max.wait.ms",
    }
)
_KNOWN = (
    "url",
    "basic.auth.user.info",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.key.password",
    "proxy",
    *sorted(_NUMBERS),
    "bearer.auth.credentials.source",
    "bearer.auth.token",
    "bearer.auth.logical.cluster",
    "bearer.auth.identity.pool.id",
    "bearer.auth.client.id",
    "bearer.auth.client.secret",
    "bearer.auth.scope",
    "bearer.auth.issuer.endpoint.url",
)
_SECRET = re.compile(r"password|secret|user\.info|token$")


def property_of(variable: str) -> tuple[str, bool]:
    """Return the property a variable stands for, and whether its value is the name of a file.

    >>> property_of("OUTBOX_REGISTRY_BASIC_AUTH_USER_INFO_FILE")
    ('basic.auth.user.info', True)
    """
    name = variable.removeprefix(VARIABLE_PREFIX).lower().replace("_", ".")
    return name.removesuffix(".file"), name.endswith(".file")


def read_property(name: str, value: object, source: str) -> object:
    """Return the value as the client takes it, or raise ConfigurationError."""
    if name not in _KNOWN:
        close = difflib.get_close_matches(name.replace("_", "."), _KNOWN, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(_KNOWN)}"
        raise ConfigurationError(f"registry ({source}): unknown property {name!r}{hint}")
    if name not in _NUMBERS:
        return value
    try:
        number = float(str(value))
    except ValueError:
        raise ConfigurationError(f"registry.{name} ({source}): {value!r} is no number") from None
    return int(number) if number.is_integer() else number


def shown_property(name: str, value: object) -> object:
    """Return a property's value as it may be shown."""
    if _SECRET.search(name):
        return "***"
    if name not in ("url", "proxy"):
        return value
    return ",".join(_without_password(url.strip()) for url in str(value).split(","))


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user, _, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:***@{place}"))


def shown_url(properties: Mapping[str, object]) -> str:
    """Return where the registry is, for sentences."""
    return str(shown_property("url", properties.get("url", "")))
