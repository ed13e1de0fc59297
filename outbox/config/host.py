"""Settings that a framework has for the commands which run in its process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from outbox.config.keys import BY_NAME
from outbox.errors import ConfigurationError

_KAFKA = "kafka."


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What the process around a command knows: Django's settings, a Flask application's config.

    `settings`: by the names of KEYS, librdkafka's properties as `kafka.<property>`; None is not
    given. They rank below flags and above the environment, since a framework's project has one
    place for its settings. `source` is what `config show` says of them, `broker_at` where a broker
    would be named among them. `reword`: puts the framework's own commands in the place of ours,
    which its users may not have at hand.
    """

    settings: Mapping[str, object] = field(default_factory=dict)
    source: str = "host"
    broker_at: str | None = None
    reword: Callable[[str], str] = str

    @property
    def kafka(self) -> dict[str, object]:
        """Return librdkafka's properties, without the prefix."""
        return {
            name.removeprefix(_KAFKA): value
            for name, value in self.settings.items()
            if name.startswith(_KAFKA) and value is not None
        }


NO_HOST = HostSettings()


def check_host(host: HostSettings) -> None:
    """Raise ConfigurationError for a setting that no command knows."""
    for name in host.settings:
        if name not in BY_NAME and not name.startswith(_KAFKA):
            raise ConfigurationError(
                f"{host.source}: unknown setting {name!r}; known are {', '.join(BY_NAME)} and "
                "kafka.<property of librdkafka>"
            )
