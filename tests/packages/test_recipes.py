"""Each recipe starts a relay that works, and asks it what it answers."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from outbox.config.keys import BY_NAME, KEYS
from outbox.errors import ConfigurationError, SchemaMissing
from outbox.metrics.catalogue import TOPIC_CLOSED
from tests.acceptance import relay_process
from tests.acceptance.command import PROGRAM, Running, environment
from tests.acceptance.relay_process import HOLDS, Scene
from tests.http.asking import Endpoints
from tests.packages import recipes
from tests.packages.promql import alerts, dashboard, names
from tests.packages.recipes import DEPLOY, Recipe, of_kind
from tests.servers.kafka_topics import KafkaServer
from tests.servers.ports import free_port
from tests.waiting import wait_until

Reading = Callable[[Path, int], Recipe]

RECIPES: dict[str, Reading] = {
    "kubernetes deployment": lambda at, port: recipes.kubernetes("deployment.yaml", at, port),
    "kubernetes sidecar": lambda at, port: recipes.kubernetes("sidecar.yaml", at, port),
    "compose": recipes.compose,
    "systemd": recipes.systemd,
}


def start(scene: Scene, recipe: Recipe) -> Running:
    """Start the command as the recipe does; only where the broker is differs."""
    given = recipe.environment | {"OUTBOX_KAFKA_BOOTSTRAP_SERVERS": scene.kafka.bootstrap_servers}
    running = Running(
        subprocess.Popen(
            [*PROGRAM, *recipe.arguments],
            cwd=scene.commands.directory,
            env=environment(**given),
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    scene.started.append(running)
    return running


@pytest.fixture
def scene(postgresql_url: str, kafka: KafkaServer, tmp_path: Path) -> Any:
    with relay_process.scene(postgresql_url, kafka, tmp_path, kafka.create_topic()) as made:
        yield made


@pytest.fixture
def secrets(scene: Scene, tmp_path: Path) -> Path:
    """Give a directory with the secrets under the names that the recipes know them by."""
    directory = tmp_path / "secrets"
    directory.mkdir()
    for name in ("database-url", "database_url"):
        (directory / name).write_text(scene.url + "\n", encoding="utf-8")
    return directory


@pytest.mark.parametrize("name", RECIPES)
def test_it_starts_a_relay_that_works_answers_its_probes_and_ends_in_time(
    scene: Scene, secrets: Path, name: str
) -> None:
    # Given a relay as the recipe starts it
    recipe = RECIPES[name](secrets, free_port())
    relay = start(scene, recipe)
    relay.says(HOLDS)
    # Then it delivers
    scene.write()
    scene.wait_until_delivered()
    # And each probe is answered where it asks
    for path, port in [("/livez", recipe.port), *recipe.probes.values()]:
        assert port == recipe.port
        Endpoints(port).becomes(path, 200)
    # And it ends well within the time it is given
    relay.signal(signal.SIGTERM)
    assert relay.wait(timeout=recipe.grace_s / 2) == 0


@pytest.mark.parametrize("name", RECIPES)
def test_it_names_settings_that_there_are_and_gives_time_to_drain(
    tmp_path: Path, name: str
) -> None:
    recipe = RECIPES[name](tmp_path, 9464)
    known = {key.variable for key in KEYS} | {f"{key.variable}_FILE" for key in KEYS}
    unknown = {each for each in recipe.environment.keys() - known if "OUTBOX_KAFKA_" not in each}
    assert unknown == set()
    default = BY_NAME["drain_timeout"].default
    drain = recipe.environment.get("OUTBOX_DRAIN_TIMEOUT", str(default))
    assert recipe.grace_s > float(drain) + 5


# Kubernetes

MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"), key=lambda path: path.name)


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.stem)
def test_kubernetes_takes_the_manifests(manifest: Path) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for document in recipes.documents(f"kubernetes/{manifest.name}"):
        if not document["apiVersion"].startswith("monitoring.coreos.com"):  # has no schema there
            validate.validate(document, "1.33", strict=True)


@pytest.mark.parametrize("name", ["deployment.yaml", "sidecar.yaml", "migrate.yaml"])
def test_pods_run_with_the_least_they_need(name: str) -> None:
    kind = "Job" if name == "migrate.yaml" else "Deployment"
    pod = of_kind(f"kubernetes/{name}", kind)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
    for container in [*pod.get("initContainers", ()), *pod["containers"]]:
        context = container["securityContext"]
        assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (
            False,
            True,
        )
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]


def test_the_first_recipe_is_two_relays_of_which_one_may_be_taken_away() -> None:
    deployment = of_kind("kubernetes/deployment.yaml", "Deployment")
    budget = of_kind("kubernetes/deployment.yaml", "PodDisruptionBudget")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["replicas"] == 2
    assert budget["spec"]["minAvailable"] == 1
    for selector in (deployment["spec"]["selector"], budget["spec"]["selector"]):
        assert selector["matchLabels"].items() <= labels.items()


def test_the_second_is_a_native_sidecar_that_does_not_hold_its_application_back() -> None:
    pod = of_kind("kubernetes/sidecar.yaml", "Deployment")["spec"]["template"]["spec"]
    (sidecar,) = pod["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    # The application starts once this succeeds, so it must not ask for a server
    assert sidecar["startupProbe"]["httpGet"]["path"] == "/livez"


def test_what_the_pods_refer_to_is_there() -> None:
    secret = of_kind("kubernetes/configuration.yaml", "Secret")
    for name, kind in (
        ("deployment.yaml", "Deployment"),
        ("sidecar.yaml", "Deployment"),
        ("migrate.yaml", "Job"),
    ):
        pod = of_kind(f"kubernetes/{name}", kind)["spec"]["template"]["spec"]
        (volume,) = pod["volumes"]
        assert volume["secret"]["secretName"] == secret["metadata"]["name"]
        for container in [*pod.get("initContainers", ()), *pod["containers"]]:
            for entry in container.get("env", ()):
                if entry["name"].endswith("_FILE"):
                    assert Path(entry["value"]).name in secret["stringData"]


def test_what_is_scraped_is_the_deployments_port() -> None:
    service = of_kind("kubernetes/monitoring.yaml", "Service")
    monitor = of_kind("kubernetes/monitoring.yaml", "ServiceMonitor")
    pod = of_kind("kubernetes/deployment.yaml", "Deployment")["spec"]["template"]
    (port,) = service["spec"]["ports"]
    (endpoint,) = monitor["spec"]["endpoints"]
    (container,) = pod["spec"]["containers"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert (
        monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    )
    assert (endpoint["port"], port["targetPort"]) == (port["name"], container["ports"][0]["name"])


# systemd


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    # It looks whether the program is there
    text = (DEPLOY / "systemd/outbox-relay.service").read_text(encoding="utf-8")
    unit = tmp_path / "outbox-relay.service"
    unit.write_text(text.replace("/opt/outbox-relay/bin/outbox-relay", "/bin/true"))
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_unit_does_not_begin_again_what_would_end_the_same_way() -> None:
    unit = recipes.systemd_unit()
    final = {int(code) for code in unit["RestartPreventExitStatus"].split()}
    assert final == {2, SchemaMissing.exit_code, ConfigurationError.exit_code}
    assert (unit["Type"], unit["Restart"]) == ("notify", "on-failure")
    name, _, path = unit["LoadCredential"].partition(":")
    assert unit["Environment"] == f"OUTBOX_DATABASE_URL_FILE=%d/{name}"
    assert path == "/etc/outbox-relay/database-url"


# Alerts and the dashboard


@pytest.fixture
def series(scene: Scene, secrets: Path) -> Any:
    """Give the names of all series of a relay that has seen messages, one of a foreign lane."""
    scene.write()
    with psycopg.connect(scene.url, autocommit=True) as connection:
        connection.execute(
            "insert into outbox_message (topic, payload, lane) values (%s, '1', 'express')",
            (scene.topic,),
        )
    recipe = RECIPES["kubernetes deployment"](secrets, free_port())
    start(scene, recipe)
    scene.wait_until_delivered()
    asked = Endpoints(recipe.port)
    wait_until(
        lambda: asked.value("outbox_undeclared_lane_messages_total") is not None, what="a sample"
    )
    return {name: [labels for labels, _ in rows] for name, rows in asked.series.items()}


def test_alerts_and_dashboard_name_series_that_there_are(series: dict[str, Any]) -> None:
    expressions = [*alerts(), *dashboard()]
    assert len(expressions) > 25
    for expression in expressions:
        assert names(expression), expression
        # Of a topic there is a series only while it cannot be written to.
        here = names(expression) - {TOPIC_CLOSED.prometheus_name}
        assert here <= series.keys(), expression
