"""compose.yaml starts what `examples/run` starts, which is what the other tests look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from examples.running.kafka import PARTITIONS, TOPICS
from examples.running.services import BILLING, RELAY, SHOP, Service, Surroundings
from examples.running.setup import read_setup
from tests.acceptance.command import ROOT
from tests.examples.running import EXAMPLES

COMPOSE = EXAMPLES / "compose.yaml"

#: What only a browser outside needs, and what only the container of the admin's user gets.
BEYOND = {"BILLING_PUBLIC_URL", "TRACES_PUBLIC_URL", "OTEL_SERVICE_NAME"}

each_service = pytest.mark.parametrize("service", [SHOP, BILLING], ids=lambda each: each.name)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text("utf-8"))["services"])


def surroundings() -> Surroundings:
    return Surroundings(
        setup=read_setup([], {}),
        directory=Path("/nowhere"),
        kafka="kafka:19092",
        otlp_endpoint="http://jaeger:4318",
        traces_url="http://jaeger:16686",
        admin_password="example",
    )


@each_service
def test_the_commands_are_those_that_are_tested(services: dict[str, Any], service: Service) -> None:
    port = 8001 if service is SHOP else 8002
    prepare = services[f"{service.name}-prepare"]["command"]
    assert services[service.name]["command"] == list(service.web("0.0.0.0", port))
    assert services[f"{service.name}-consumer"]["command"] == list(service.consumer)
    assert prepare in (
        [*service.prepare[0]],
        ["sh", "-c", " && ".join(" ".join(command) for command in service.prepare)],
    )
    # The relay's image begins with the command's name.
    assert ["outbox-relay", *services[f"{service.name}-relay"]["command"]] == list(RELAY)
    assert 'ENTRYPOINT ["outbox-relay"]' in Path(ROOT, "deploy", "Dockerfile").read_text()


@each_service
def test_the_environment_has_the_names_that_are_tested(
    services: dict[str, Any], service: Service
) -> None:
    around = surroundings()
    known = {*around.variables(service), *BEYOND}
    needed = known - BEYOND - {"SHOP_RELAY_PID_FILE", "SHOP_ADMIN_PASSWORD"}
    for name in (service.name, f"{service.name}-consumer", f"{service.name}-prepare"):
        given = services[name]["environment"]
        assert needed <= set(given) <= known, name
    relay = services[f"{service.name}-relay"]["environment"]
    assert set(relay) - BEYOND == set(around.relay_variables(service))


@each_service
def test_values_that_are_the_same_everywhere_are_the_same_here(
    services: dict[str, Any], service: Service
) -> None:
    expected = surroundings().variables(service)
    given = services[service.name]["environment"]
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "SHOP_PORT", "BILLING_PORT", "TRACES_URL"):
        assert given[name] == expected[name]
    relay = services[f"{service.name}-relay"]["environment"]
    assert relay["OUTBOX_DATABASE_URL"] == given["DATABASE_URL"]
    assert relay["OUTBOX_KAFKA_BOOTSTRAP_SERVERS"] == given["KAFKA_BOOTSTRAP_SERVERS"]


@each_service
def test_the_relay_is_a_sidecar(services: dict[str, Any], service: Service) -> None:
    relay = services[f"{service.name}-relay"]
    assert relay["network_mode"] == f"service:{service.name}"
    assert relay["depends_on"] == {service.name: {"condition": "service_healthy"}}


def test_every_container_has_what_it_waits_for(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for other, wait in service.get("depends_on", {}).items():
            assert other in services, f"{name} waits for {other}"
            if wait["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{other} has no healthcheck"
            if wait["condition"] == "service_completed_successfully":
                assert services[other]["restart"] == "no", f"{other} never ends"


def test_files_that_are_built_from_are_there(services: dict[str, Any]) -> None:
    built = {service["build"]["dockerfile"] for service in services.values() if "build" in service}
    assert built == {"examples/Dockerfile", "deploy/Dockerfile"}
    for file in built:
        assert Path(ROOT, file).exists()
    images = {service["image"] for service in services.values() if "build" not in service}
    assert all(":" in image and not image.endswith(":latest") for image in images)


def test_the_topics_are_made_as_elsewhere(services: dict[str, Any]) -> None:
    script = services["topics"]["command"][-1]
    assert f"for topic in {' '.join(TOPICS)};" in script
    assert f"--partitions {PARTITIONS}" in script
    # And nobody else is to make them, with other partitions
    assert services["kafka"]["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
