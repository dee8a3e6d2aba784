"""Which servers a laptop can run: Apache Kafka, redis-server, and noida-db for both."""

import base64
import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from stream.local.process import Server, StackError, free_port, kafka_answers, redis_answers


def apache_kafka(
    home: Path,
    folder: Path,
    protocol: str = "PLAINTEXT",
    properties: Mapping[str, str] | None = None,
    scram: Mapping[str, str] | None = None,
) -> Server:
    """One node of Apache Kafka, broker and controller, its data folder formatted."""
    java, version = find_java(), kafka_version(home)
    port, controller, work = free_port(), free_port(), folder / "kafka"
    work.mkdir(exist_ok=True)
    config = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"{protocol}://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"{protocol}://127.0.0.1:{port}",
        "inter.broker.listener.name": protocol,
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": f"{protocol}:{protocol},CONTROLLER:PLAINTEXT",
        "log.dirs": str(work / "data"),
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "group.initial.rebalance.delay.ms": "0",
        "auto.create.topics.enable": "false",
        **(properties or {}),
    }
    path = work / "server.properties"
    path.write_text("".join(f"{key}={value}\n" for key, value in config.items()))
    run = [java, "-Xmx512m", "-XX:+UseSerialGC", "-cp", str(home / "libs" / "*")]
    if not (work / "data" / "meta.properties").exists():
        users = [
            f"SCRAM-SHA-256=[name={name},password={password}]"
            for name, password in (scram or {}).items()
        ]
        _format([*run, "kafka.tools.StorageTool", "format", "-c", str(path)], users)
    tls = protocol.endswith("SSL")
    return Server(
        f"Apache Kafka {version} from {home}",
        [*run, "kafka.Kafka", str(path)],
        port,
        work,
        partial(kafka_answers, tls=tls),
    )


def _format(command: list[str], users: list[str]) -> None:
    cluster = base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
    command = [*command, "-t", cluster]
    for user in users:
        command += ["--add-scram", user]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"Kafka's data folder was not formatted: {done.stdout}{done.stderr}")


def find_java() -> str:
    """The `java` on PATH."""
    if java := shutil.which("java"):
        return java
    raise StackError(
        "Apache Kafka needs Java 17 or newer and there is no `java` on PATH; "
        "install it (Debian: apt install openjdk-17-jre-headless) or unset KAFKA_HOME"
    )


def kafka_version(home: Path) -> str:
    """The version of the Apache Kafka unpacked in `home`."""
    jars = sorted((home / "libs").glob("kafka-clients-*.jar"))
    if jars:
        return jars[0].stem.removeprefix("kafka-clients-")
    raise StackError(
        f"no Apache Kafka in {home}: libs/kafka-clients-*.jar is missing; unpack a release "
        "from https://kafka.apache.org/downloads and set KAFKA_HOME to its folder"
    )


def redis_server(folder: Path) -> Server | None:
    """The machine's own `redis-server`, without persistence; None where there is none."""
    binary = shutil.which("redis-server")
    if binary is None:
        return None
    port, work = free_port(), folder / "redis"
    work.mkdir(exist_ok=True)
    command = [binary, "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
    return Server("redis-server", command, port, work, redis_answers)


def noida(service: str, folder: Path) -> Server:
    """`service` (kafka or redis) of noida-db: one worker's laptop, never production."""
    spec = find_spec("noida_db")
    if spec is None or spec.origin is None:
        raise StackError(
            f"no {service} to start: run `pip install -e '.[local]'` in rankloop's checkout for a "
            "small one, or set KAFKA_HOME to an unpacked Apache Kafka (and have Java and "
            "redis-server)"
        )
    binary = Path(spec.origin).parent / ("noida-db.exe" if os.name == "nt" else "noida-db")
    if not os.access(binary, os.X_OK):
        binary.chmod(0o755)
    port, work = free_port(), folder / service
    work.mkdir(exist_ok=True)
    # The binary itself: the package's command is a wrapper whose child outlives it.
    command = [str(binary), "start", "--only", service, f"--{service}-port", str(port)]
    answers = kafka_answers if service == "kafka" else redis_answers
    return Server(f"noida-db's {service}", [*command, "--data-dir", str(work)], port, work, answers)
