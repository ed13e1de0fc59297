"""The Dockerfile, as far as it can be tried without a Docker: by a linter, and by running what it
runs, in its order, on this machine."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.acceptance import relay_process
from tests.acceptance.command import Running, environment
from tests.acceptance.relay_process import HOLDS
from tests.packages.environments import clean_environment
from tests.packages.recipes import DEPLOY, PORT, ROOT, image_environment, instructions
from tests.servers.kafka_topics import KafkaServer
from tests.servers.ports import free_port
from tests.waiting import wait_until

INSTALLED = "/opt/outbox-relay"


def the(name: str) -> str:
    """Return the arguments of the last instruction of a name."""
    return [rest for instruction, rest in instructions() if instruction == name][-1]


def test_a_linter_finds_nothing() -> None:
    linter = shutil.which("hadolint")
    if linter is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([linter, str(DEPLOY / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_runs_as_nobody_and_ends_by_sigterm() -> None:
    user, _, group = the("USER").partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert the("STOPSIGNAL") == "SIGTERM"
    assert the("EXPOSE") == str(PORT) == image_environment()["OUTBOX_HTTP_PORT"]
    labels = dict(pair.split("=", 1) for pair in shlex.split(the("LABEL")))
    assert labels["org.opencontainers.image.title"] == "outbox-relay"
    assert labels["org.opencontainers.image.licenses"] == "MIT"


def test_the_context_is_what_the_wheel_is_built_from_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert set(context()) == {"pyproject.toml", "README.md", "LICENSE", "migrations", "outbox"}


def context() -> list[str]:
    """Return what .dockerignore lets in."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return [line[1:] for line in lines if line.startswith("!")]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run every RUN of the Dockerfile on a copy of its context; return what /opt then holds."""
    directory = tmp_path_factory.mktemp("image")
    source, target = directory / "source", directory / "installed"
    source.mkdir()
    for name in context():
        path = ROOT / name
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, source / name, ignore=ignored)
        else:
            shutil.copy(path, source / name)
    for name, rest in instructions():
        if name == "RUN":
            # With the cache of this machine, which changes nothing of what is installed.
            command = rest.replace(INSTALLED, str(target)).replace(" --no-cache-dir", "")
            done = subprocess.run(
                ["/bin/sh", "-ec", command],
                cwd=source,
                env=clean_environment(),
                capture_output=True,
                text=True,
                timeout=240,
            )
            assert done.returncode == 0, done.stderr
    return target


@pytest.mark.slow
def test_what_it_installs_starts_works_and_passes_its_own_healthcheck(
    installed: Path, postgresql_url: str, kafka: KafkaServer, tmp_path: Path
) -> None:
    port = free_port()
    with relay_process.scene(postgresql_url, kafka, tmp_path, kafka.create_topic()) as scene:
        # Given the image's environment, and what `docker run` would add
        given = environment(
            **image_environment(),
            OUTBOX_DATABASE_URL=scene.url,
            OUTBOX_KAFKA_BOOTSTRAP_SERVERS=kafka.bootstrap_servers,
        )
        given |= {"OUTBOX_HTTP_PORT": str(port), "PATH": f"{installed}/bin:{given['PATH']}"}
        del given["PYTHONPATH"]
        # When it is started
        command = [*json.loads(the("ENTRYPOINT")), *json.loads(the("CMD"))]
        program = f"{installed}/bin/{command[0]}"
        process = subprocess.Popen(
            [program, *command[1:]], env=given, cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        with Running(process) as relay:
            relay.says(HOLDS)
            # Then it delivers, and its health check says that it is well
            scene.write()
            scene.wait_until_delivered()
            check = json.loads(the("HEALTHCHECK").partition("CMD ")[2])
            done = wait_until(
                lambda: (
                    subprocess.run(
                        [f"{installed}/bin/{check[0]}", *check[1:]], env=given, cwd=tmp_path
                    ).returncode
                    == 0
                ),
                what="the health check",
            )
            assert done
            relay.signal(getattr(signal, the("STOPSIGNAL")))
            assert relay.wait() == 0


@pytest.mark.slow
def test_it_holds_what_exports_spans(installed: Path) -> None:
    done = subprocess.run(
        [
            f"{installed}/bin/python",
            "-c",
            "import opentelemetry.exporter.otlp.proto.http.trace_exporter, prometheus_client",
        ],
        env=clean_environment(),
    )
    assert done.returncode == 0
