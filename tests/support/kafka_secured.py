"""An Apache Kafka with TLS, passwords and access rules, and an administrator to change them."""

import asyncio
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from aiokafka.errors import for_code
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest
from msgspec import Struct

from stream.kafka.authorization import OPERATIONS, Permission, connected
from stream.local.stack import Stack
from stream.settings import Settings

MECHANISM = "SCRAM-SHA-256"
LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule required"
KINDS = {"topic": 2, "group": 3}  # Kafka's ResourceType
LITERAL, ALLOW = 3, 3
PASSWORD = "hush-hush"


def openssl(folder: Path, command: str) -> None:
    subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)


def certificates(folder: Path) -> None:
    """ca.pem, and keystore.pem of a server at 127.0.0.1 that it signed."""
    names = "subjectAltName=IP:127.0.0.1"
    openssl(folder, "req -x509 -newkey rsa:2048 -nodes -subj /CN=ca -keyout ca.key -out ca.pem")
    openssl(
        folder,
        f"req -newkey rsa:2048 -nodes -subj /CN=kafka -addext {names} "
        "-keyout key.pem -out request.pem",
    )
    openssl(
        folder,
        "x509 -req -in request.pem -copy_extensions copy -CA ca.pem -CAkey ca.key "
        "-CAcreateserial -out certificate.pem",
    )
    parts = [(folder / f"{name}.pem").read_text() for name in ("key", "certificate", "ca")]
    (folder / "keystore.pem").write_text("".join(parts))


class Secured(Struct, frozen=True):
    """The broker, and the settings of its administrator and of a user with no rights."""

    stack: Stack
    admin: Settings
    user: Settings

    def grant(self, permissions: Iterable[Permission]) -> None:
        asyncio.run(self._each(CreateAclsRequest, permissions))

    def revoke(self, permissions: Iterable[Permission]) -> None:
        asyncio.run(self._each(DeleteAclsRequest, permissions))

    async def _each(self, request: Any, permissions: Iterable[Permission]) -> None:
        principal = f"User:{self.user.sasl_username}"
        async with connected(self.admin) as connection:
            for right in permissions:
                operation = OPERATIONS[right.operation]
                of = KINDS[right.kind], right.name, LITERAL, principal, "*", operation, ALLOW
                told: Any = await connection.send(request(*of))
                told = told.to_object()
                answers = told.get("creation_responses") or told.get("filter_responses")
                if code := answers[0]["error_code"]:
                    raise for_code(code)(answers[0]["error_message"])


@contextmanager
def secured(home: Path, folder: Path, *, rules: bool) -> Iterator[Secured]:
    """Run one; with `rules` users may do only what they were granted."""
    certificates(folder)
    properties = {
        "sasl.enabled.mechanisms": MECHANISM,
        "sasl.mechanism.inter.broker.protocol": MECHANISM,
        "listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config": (
            f'{LOGIN} username="admin" password="admins-own";'
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "keystore.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(folder / "ca.pem"),
    }
    if rules:
        properties |= {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:admin;User:ANONYMOUS",
            "allow.everyone.if.no.acl.found": "false",
        }
    with Stack(
        kafka_home=home,
        redis=False,
        protocol="SASL_SSL",
        properties=properties,
        scram={"admin": "admins-own", "rankloop": PASSWORD},
    ) as stack:
        user = Settings(
            brokers=stack.brokers,
            security_protocol="SASL_SSL",
            sasl_mechanism=MECHANISM,
            sasl_username="rankloop",
            sasl_password=PASSWORD,
            ssl_cafile=str(folder / "ca.pem"),
        )
        admin = msgspec.structs.replace(user, sasl_username="admin", sasl_password="admins-own")
        yield Secured(stack, admin, user)
