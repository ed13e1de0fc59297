"""The recipes of deploy/, read as what they run: arguments, environment, ports, probes."""

from __future__ import annotations

import configparser
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PORT = 9464


@dataclass(frozen=True)
class Recipe:
    """How something starts `outbox-relay`. `grace_s`: what a stop may take."""

    arguments: list[str]
    environment: dict[str, str]
    grace_s: float
    probes: dict[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def port(self) -> int:
        """Return the port that the command is told."""
        if "--http-port" in self.arguments:
            return int(self.arguments[self.arguments.index("--http-port") + 1])
        return int(self.environment["OUTBOX_HTTP_PORT"])


def documents(name: str, port: int = PORT) -> list[Any]:
    """Return the documents of a manifest, on another port than the recipes'."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    return list(yaml.safe_load_all(text.replace(str(PORT), str(port))))


def of_kind(name: str, kind: str, port: int = PORT) -> Any:
    (found,) = [document for document in documents(name, port) if document["kind"] == kind]
    return found


# Kubernetes


def relay_container(pod: Any) -> Any:
    containers = [*pod.get("initContainers", ()), *pod["containers"]]
    (found,) = [container for container in containers if container["name"] == "relay"]
    return found


def kubernetes(name: str, directory: Path, port: int) -> Recipe:
    """Return what a pod's relay runs, with its Secret's files in `directory`."""
    pod = of_kind(f"kubernetes/{name}", "Deployment", port)["spec"]["template"]["spec"]
    container = relay_container(pod)
    config = of_kind("kubernetes/configuration.yaml", "ConfigMap")
    assert [source["configMapRef"]["name"] for source in container["envFrom"]] == [
        config["metadata"]["name"]
    ]
    given = {entry["name"]: entry["value"] for entry in container["env"]}
    for mount in container["volumeMounts"]:
        given = {
            variable: value.replace(mount["mountPath"], str(directory))
            for variable, value in given.items()
        }
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    return Recipe(
        container["args"],
        config["data"] | given,
        pod["terminationGracePeriodSeconds"],
        dict(_probes(container, ports)),
    )


def _probes(container: Any, ports: dict[str, int]) -> Iterator[tuple[str, tuple[str, int]]]:
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        get = container[name]["httpGet"]
        yield name, (get["path"], ports[get["port"]])


# Compose


def compose(directory: Path, port: int) -> Recipe:
    """Return what the service `relay` runs, with its secrets in `directory`."""
    (file,) = documents("compose.yaml", port)
    service = file["services"]["relay"]
    environment = image_environment() | {"OUTBOX_HTTP_PORT": str(port)} | service["environment"]
    environment = {
        name: value.replace("/run/secrets", str(directory)) for name, value in environment.items()
    }
    return Recipe(service["command"], environment, seconds(service["stop_grace_period"]))


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text[:-1])


# systemd


def systemd_unit() -> configparser.SectionProxy:
    """Return the section [Service]; of what is given more than once, the last."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names as they are written
    parser.read(DEPLOY / "systemd/outbox-relay.service", encoding="utf-8")
    return parser["Service"]


def systemd(directory: Path, port: int) -> Recipe:
    """Return what the unit runs, with its credentials in `directory`."""
    unit = systemd_unit()
    program, *arguments = shlex.split(unit["ExecStart"].replace(str(PORT), str(port)))
    assert program == "/opt/outbox-relay/bin/outbox-relay"
    name, _, value = unit["Environment"].partition("=")
    return Recipe(
        arguments, {name: value.replace("%d", str(directory))}, float(unit["TimeoutStopSec"])
    )


# The image


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions in order, each with its arguments on one line."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    found = [line.partition(" ") for line in lines if line and not line.startswith("#")]
    return [(name, " ".join(rest.split())) for name, _, rest in found]


def image_environment() -> dict[str, str]:
    """Return what the image sets of ours."""
    pairs = [
        pair.partition("=")
        for name, rest in instructions()
        if name == "ENV"
        for pair in shlex.split(rest)
    ]
    return {name: value for name, _, value in pairs if name.startswith("OUTBOX_")}
