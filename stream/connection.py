"""How to reach Kafka and Redis: the settings of the door, and what clients are opened with."""

import ssl
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from stream.settings_schema import SettingError, check, says

if TYPE_CHECKING:
    from faust.types.auth import CredentialsT

Seconds = Annotated[float, Meta(ge=0, le=31_536_000)]


class Connection(Struct, frozen=True, kw_only=True):
    """Where Kafka and Redis are, and how to log in.

    >>> Connection(brokers="one:9092, two:9092").faust_options()["broker"]
    ['aiokafka://one:9092', 'aiokafka://two:9092']
    """

    brokers: Annotated[str, says("Kafka servers, host:port, comma-separated", min_length=3)] = (
        "127.0.0.1:9092"
    )
    security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], says("how to talk to Kafka")
    ] = "PLAINTEXT"
    sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"], says("how to log in to Kafka")
    ] = "SCRAM-SHA-256"
    sasl_username: Annotated[str, says("Kafka user, with SASL_*")] = ""
    sasl_password: Annotated[str, says("Kafka password, with SASL_*", secret=True)] = ""
    ssl_cafile: Annotated[str, says("CA certificates for Kafka (PEM); empty: the system's")] = ""
    ssl_certfile: Annotated[str, says("client certificate for Kafka (PEM)")] = ""
    ssl_keyfile: Annotated[str, says("key of the client certificate (PEM)")] = ""
    ssl_key_password: Annotated[str, says("password of that key", secret=True)] = ""
    connect_seconds: Annotated[Seconds, says("how long a start waits for Kafka to answer")] = 30
    redis_url: Annotated[str, says("Redis, rediss:// for TLS; empty: kept in memory")] = ""
    redis_cafile: Annotated[str, says("CA certificates for Redis (PEM); empty: the system's")] = ""

    def __post_init__(self) -> None:
        check(self)
        if self.security_protocol.startswith("SASL") and not (
            self.sasl_username and self.sasl_password
        ):
            raise SettingError(
                f"security_protocol {self.security_protocol} needs a user and a password; "
                "set RANKLOOP_SASL_USERNAME and RANKLOOP_SASL_PASSWORD"
            )
        if self.sasl_username and not self.security_protocol.startswith("SASL"):
            raise SettingError(
                f"sasl_username is of no use with security_protocol {self.security_protocol}; "
                "set SASL_SSL"
            )
        if self.ssl_keyfile and not self.ssl_certfile:
            raise SettingError("ssl_keyfile needs its certificate; set ssl_certfile, too")
        if self.redis_url and urlsplit(self.redis_url).scheme not in ("redis", "rediss"):
            raise SettingError("redis_url starts with redis:// or, for TLS, rediss://")

    def ssl_context(self) -> ssl.SSLContext | None:
        """TLS for Kafka, with the client certificate if there is one; None without TLS."""
        if not self.security_protocol.endswith("SSL"):
            return None
        context = ssl.create_default_context(cafile=self.ssl_cafile or None)
        if self.ssl_certfile:
            context.load_cert_chain(
                self.ssl_certfile, self.ssl_keyfile or None, self.ssl_key_password or None
            )
        return context

    def aiokafka_options(self) -> dict[str, Any]:
        """What every aiokafka client is opened with: where and how to log in."""
        options: dict[str, Any] = {
            "bootstrap_servers": self.brokers,
            "security_protocol": self.security_protocol,
            "ssl_context": self.ssl_context(),
        }
        if self.security_protocol.startswith("SASL"):
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.sasl_username
            options["sasl_plain_password"] = self.sasl_password
        return options

    def redis_options(self) -> dict[str, Any]:
        """What `redis.from_url` needs beside the URL."""
        tls = self.redis_url.startswith("rediss://") and self.redis_cafile
        return {"ssl_ca_certs": self.redis_cafile} if tls else {}

    def faust_options(self) -> dict[str, Any]:
        """The same for `faust.App`."""
        brokers = [f"aiokafka://{broker.strip()}" for broker in self.brokers.split(",")]
        return {"broker": brokers, "broker_credentials": self._faust_credentials()}

    def _faust_credentials(self) -> "CredentialsT | None":
        from faust import SASLCredentials, SSLCredentials  # 1 s to import: only workers pay

        context = self.ssl_context()
        if self.security_protocol.startswith("SASL"):
            return SASLCredentials(
                username=self.sasl_username,
                password=self.sasl_password,
                mechanism=self.sasl_mechanism,
                ssl_context=context,
            )
        return SSLCredentials(context) if context else None
