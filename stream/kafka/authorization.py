"""What Kafka lets us do: reaching it, logging in, and the rights that a worker needs there.

Clients retry refusals, some of them for ever and without a word, so we ask the broker itself: it
says what a user may do with each topic and group.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.client import collect_hosts
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.coordination import FindCoordinatorRequest
from msgspec import Struct

from stream.errors import LogError, RetryableError
from stream.kafka.protocol import Group, Groups, Metadata
from stream.settings import Settings

ANSWER_SECONDS = 10.0  # a server that accepts and then says nothing counts as away after this
OPERATIONS = {"READ": 3, "WRITE": 4, "CREATE": 5, "DESCRIBE": 8}  # Kafka's AclOperation
KINDS = ("topic", "group")
ALL = 2**31 - 1
UNSAID = -(2**31)  # a broker without access rules, or too old to tell

REFUSED = (SaslAuthenticationFailed, UnsupportedSaslMechanismError, IllegalSaslStateError)


class BrokerUnavailableError(RetryableError):
    """No broker answers: it may come back."""


class AuthorizationDeniedError(LogError):
    """Kafka does not trust us, or we do not trust it, or a right is missing: waiting is no use."""


class Permission(Struct, frozen=True, order=True):
    """To do something with a topic or a group.

    >>> Permission("topic", "rankloop.items", "READ").command("ann")
    'kafka-acls.sh --add --allow-principal User:ann --operation READ --topic rankloop.items'
    """

    kind: str
    name: str
    operation: str

    def command(self, user: str) -> str:
        """What an administrator runs to give it."""
        return (
            f"kafka-acls.sh --add --allow-principal User:{user} "
            f"--operation {self.operation} --{self.kind} {self.name}"
        )


@asynccontextmanager
async def connected(settings: Settings, server: str = "") -> AsyncIterator[AIOKafkaConnection]:
    """A connection, logged in, to `server` or the first of the brokers that lets us in.

    Raises AuthorizationDeniedError if one refuses us and none takes us, BrokerUnavailableError if
    none answers.
    """
    options = settings.aiokafka_options()
    options["request_timeout_ms"] = int(ANSWER_SECONDS * 1000)
    words: list[str] = []
    denied = False
    for host, port, _ in collect_hosts(server or options.pop("bootstrap_servers")):
        options.pop("bootstrap_servers", None)
        try:
            connection = await create_conn(host, port, **options)
        except (OSError, KafkaError, TimeoutError) as error:
            denied = denied or isinstance(error, (ssl.SSLError, *REFUSED))
            words.append(refusal(settings, f"{host}:{port}", error))
            continue
        try:
            yield connection
        finally:
            connection.close()
        return
    raise (AuthorizationDeniedError if denied else BrokerUnavailableError)("; ".join(words))


def refusal(settings: Settings, where: str, error: Exception) -> str:
    """Why a broker did not let us in, and what to do; never a password."""
    user, protocol = settings.sasl_username, settings.security_protocol
    match error:
        case ssl.SSLCertVerificationError():
            ca = settings.ssl_cafile or "the system's"
            return (
                f"the certificate of Kafka at {where} is not trusted ({error.verify_message}); "
                f"set RANKLOOP_SSL_CAFILE (now: {ca}) to the CA that signed it for that name"
            )
        case ssl.SSLError():
            return (
                f"no TLS with Kafka at {where} ({error.reason or error}); check "
                f"RANKLOOP_SECURITY_PROTOCOL (now: {protocol}) and RANKLOOP_SSL_CERTFILE"
            )
        case SaslAuthenticationFailed():
            return (
                f"Kafka at {where} refuses the user or the password of {user!r}; check "
                "RANKLOOP_SASL_USERNAME, RANKLOOP_SASL_PASSWORD and RANKLOOP_SASL_MECHANISM"
            )
        case UnsupportedSaslMechanismError() | IllegalSaslStateError():
            return (
                f"Kafka at {where} does not log in by {settings.sasl_mechanism} over {protocol}; "
                "check RANKLOOP_SASL_MECHANISM and RANKLOOP_SECURITY_PROTOCOL"
            )
    reason = str(error) or type(error).__name__
    return (
        f"no Kafka answers at {where} with {protocol} ({reason}); "
        "is it running? check RANKLOOP_BROKERS and RANKLOOP_SECURITY_PROTOCOL"
    )


async def reach(settings: Settings) -> None:
    """Log in once. Raises AuthorizationDeniedError or BrokerUnavailableError."""
    async with connected(settings):
        pass


async def partitions(settings: Settings, names: Iterable[str]) -> dict[str, int | None]:
    """How many partitions each topic has; None for one that is not there. Raises
    AuthorizationDeniedError if one is hidden from us.
    """
    found: dict[str, int | None] = {}
    async with connected(settings) as connection:
        for topic in (await ask(connection, Metadata(list(names)))).to_object()["topics"]:
            if topic["error_code"] == TopicAuthorizationFailedError.errno:
                right = Permission("topic", topic["topic"], "DESCRIBE")
                raise AuthorizationDeniedError(lacking(settings, [right]))
            gone = topic["error_code"] == UnknownTopicOrPartitionError.errno
            found[topic["topic"]] = None if gone else len(topic["partitions"])
    return found


async def check_permissions(settings: Settings, permissions: Iterable[Permission]) -> list[Group]:
    """Log in and ask for each right; the groups among them, as they are now.

    Raises AuthorizationDeniedError, naming all that are missing, or BrokerUnavailableError.
    """
    try:
        missing, groups = await _missing(settings, list(permissions))
    except (KafkaError, OSError, TimeoutError) as error:
        raise BrokerUnavailableError(refusal(settings, settings.brokers, error)) from None
    if missing:
        raise AuthorizationDeniedError(lacking(settings, missing))
    return groups


def lacking(settings: Settings, missing: list[Permission]) -> str:
    """What the user lacks, and the commands that mend it."""
    user = settings.sasl_username or "ANONYMOUS"
    first = "; ".join(f"{one.operation} on {one.kind} {one.name}" for one in missing)
    return f"Kafka does not allow user {user!r}: {first}. Have an administrator run: " + "; ".join(
        one.command(user) for one in missing
    )


async def _missing(
    settings: Settings, permissions: list[Permission]
) -> tuple[list[Permission], list[Group]]:
    names = {
        kind: list(dict.fromkeys(r.name for r in permissions if r.kind == kind)) for kind in KINDS
    }
    groups: list[Group] = []
    async with connected(settings) as connection:
        answer = (await ask(connection, Metadata(names["topic"]))).to_object()
        may = {("topic", t["topic"]): _allowed(t) for t in answer["topics"]}
        for group in names["group"]:
            found = await ask(connection, FindCoordinatorRequest(group, 0))
            if found.error_code == GroupAuthorizationFailedError.errno:
                may["group", group] = 0
            elif not found.error_code:
                at = f"{found.host}:{found.port}"
                async with connected(settings, at) as coordinator:
                    answer = (await ask(coordinator, Groups([group]))).to_object()
                [told] = answer["groups"]
                may["group", group] = _allowed(told)
                groups.append(Group.told(told))
    may_not = [
        r for r in permissions if not may.get((r.kind, r.name), ALL) >> OPERATIONS[r.operation] & 1
    ]
    return may_not, groups


def _allowed(told: dict[str, Any]) -> int:
    """One bit an operation; all where the broker does not say, 0 for what it hides."""
    if told["error_code"] in (
        TopicAuthorizationFailedError.errno,
        GroupAuthorizationFailedError.errno,
    ):
        return 0
    operations = told.get("authorized_operations", UNSAID)
    return ALL if told["error_code"] or operations == UNSAID else operations


async def ask(connection: AIOKafkaConnection, request: Any) -> Any:
    """The answer, within ANSWER_SECONDS."""
    async with asyncio.timeout(ANSWER_SECONDS):
        return await connection.send(request)
