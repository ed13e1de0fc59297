"""Programs of others that read what we write: Java's Avro, and protoc."""

from __future__ import annotations

import functools
import json
import platform
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from tests.servers.availability import ServerUnavailableError
from tests.servers.maven import fetched, java

POM = Path(__file__).parent / "reader_jars" / "pom.xml"
PLATFORMS = {"x86_64": "linux-x86_64", "aarch64": "linux-aarch_64"}


def java_reads_avro(schema: str, data: bytes) -> Any:
    """Return what Apache's Avro for Java makes of bytes, in Avro's own JSON."""
    with tempfile.TemporaryDirectory() as directory:
        schema_file, data_file = Path(directory, "schema.avsc"), Path(directory, "data")
        schema_file.write_text(schema)
        data_file.write_bytes(data)
        jar = next(_readers().glob("avro-tools-*.jar"))
        options = ["-XX:TieredStopAtLevel=1", "-jar", str(jar)]
        command = [java("Avro"), *options, "fragtojson", "--schema-file", str(schema_file)]
        done = _run([*command, str(data_file)])
    return json.loads(done)


def protoc_reads(directory: Path, file: str, message: str, data: bytes) -> str:
    """Return what protoc makes of bytes, in Protobuf's text format."""
    return _run([_protoc(), f"--decode={message}", *_imports(directory), file], data)


def protoc_compiles(directory: Path, file: str, into: Path) -> None:
    """Compile a .proto file to a descriptor set, as a user would."""
    options = ["--include_imports", f"--descriptor_set_out={into}"]
    _run([_protoc(), *options, *_imports(directory), file])


def _run(command: list[str], data: bytes = b"") -> str:
    done = subprocess.run(command, input=data, capture_output=True, timeout=60)
    assert not done.returncode, done.stderr.decode()
    return done.stdout.decode()


def _imports(directory: Path) -> list[str]:
    return [f"-I{directory}", f"-I{_well_known()}"]


@functools.cache
def _well_known() -> Path:
    """Return where the files are that come with protoc."""
    target = _readers() / "include"
    if not target.exists():
        with zipfile.ZipFile(next(_readers().glob("protobuf-java-*.jar"))) as jar:
            jar.extractall(target, [name for name in jar.namelist() if name.endswith(".proto")])
    return target


@functools.cache
def _protoc() -> str:
    program = next(_readers().glob("protoc-*.exe"))
    program.chmod(0o755)
    return str(program)


@functools.cache
def _readers() -> Path:
    if platform.system() != "Linux" or platform.machine() not in PLATFORMS:
        raise ServerUnavailableError("the foreign readers are fetched for Linux on x86_64 and ARM")
    there = f"-Dplatform={PLATFORMS[platform.machine()]}"
    return fetched("readers", POM, "dependency:copy-dependencies", there)
