"""Settings: who wins, what is refused, what is never shown, what steers the fold."""

import ssl
import subprocess
from pathlib import Path
from typing import Any

import faust
import msgspec
import pytest

from agents.learner import FOLD
from models.events import Fold, decode_any, encode
from stream import build
from stream import settings as module
from stream.settings import ROLES, Settings, hash_of, settings_table
from stream.settings_schema import RENAMED, SettingError, Steers, steering

NAMES = [field.name for field in msgspec.structs.fields(Settings)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rankloop.toml"


def test_the_environment_is_above_the_file_above_the_defaults(file: Path) -> None:
    file.write_text('epsilon = 0.2\nseed = 7\nbrokers = "kafka:9092"\n')
    environ = {
        "RANKLOOP_CONFIG": str(file),
        "RANKLOOP_SEED": "8",
        "RANKLOOP_REFRESH_ON_CLICK": "false",
    }
    settings = Settings.load(environ)
    assert (settings.epsilon, settings.seed, settings.brokers) == (0.2, 8, "kafka:9092")
    assert settings.refresh_on_click is False
    assert settings.horizon_seconds == 600


def test_a_file_given_is_read_instead_of_the_environments(file: Path) -> None:
    file.write_text("seed = 7")
    assert Settings.load({"RANKLOOP_CONFIG": "/nowhere"}, file).seed == 7


def test_every_setting_can_be_read_back_from_the_environment() -> None:
    environ = {}
    for name in NAMES:
        value = getattr(Settings(), name)
        environ[f"RANKLOOP_{name.upper()}"] = value if isinstance(value, str) else str(value)
    assert Settings.load(environ) == Settings()


def test_kafka_home_is_taken_from_its_usual_variable() -> None:
    assert Settings.load({"KAFKA_HOME": "/opt/kafka"}).kafka_home == "/opt/kafka"
    both = {"KAFKA_HOME": "/opt/kafka", "RANKLOOP_KAFKA_HOME": "/mine"}
    assert Settings.load(both).kafka_home == "/mine"


def test_variables_of_others_and_of_the_tests_are_left_alone() -> None:
    assert Settings.load({"EPSILON": "x", "RANKLOOP_TEST_KAFKA": "kafka:9092"}) == Settings()


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RANKLOOP_EPSILN": "1"}, "RANKLOOP_EPSILN is no setting; did you mean RANKLOOP_EPSILON?"),
        ({"RANKLOOP_QQQ": "1"}, "RANKLOOP_QQQ is no setting; remove it"),
        ({"RANKLOOP_EPSILON": "0"}, "> 0.0, got '0'; share of free draws, in (0, 1]"),
        ({"RANKLOOP_EPSILON": "nan"}, "got 'nan'"),
        ({"RANKLOOP_HORIZON_SECONDS": "inf"}, "got 'inf'"),
        ({"RANKLOOP_SEED": "one"}, "seed (RANKLOOP_SEED): Expected `int`, got `str`, got 'one'"),
        ({"RANKLOOP_EXPLORATION": "ucb"}, "one of 'epsilon', 'softmax', 'squarecb', got 'ucb'"),
        ({"RANKLOOP_TOPIC_PREFIX": "a b"}, "got 'a b'; first part of topic names"),
        ({"RANKLOOP_REDIS_URL": "http://x"}, "redis_url starts with redis:// or, for TLS, redi"),
        ({"RANKLOOP_SECURITY_PROTOCOL": "SASL_SSL"}, "needs a user and a password"),
        ({"RANKLOOP_SASL_USERNAME": "ann"}, "of no use with security_protocol PLAINTEXT"),
        ({"RANKLOOP_SSL_KEYFILE": "key.pem"}, "set ssl_certfile, too"),
        (
            {"RANKLOOP_READ_YOUR_WRITES_SECONDS": "9"},
            "at most a quarter of session_timeout_seconds (30)",
        ),
        ({"RANKLOOP_CONFIG": "/nowhere.toml"}, "settings file /nowhere.toml cannot be read"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_remedy(
    environ: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingError) as refusal:
        Settings.load(environ)
    assert message in str(refusal.value)


def test_settings_made_in_code_are_checked_as_well() -> None:
    with pytest.raises(SettingError, match="epsilon"):
        Settings(epsilon=0.0)


@pytest.mark.parametrize(
    "line",
    [
        'sasl_password = "hush"',
        'ssl_key_password = "hush"',
        'redis_url = "redis://ann:hush@redis:6379/0"',
        'redis_url = "redis://redis:6379/0?password=hush"',
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(file: Path, line: str) -> None:
    file.write_text(line)
    with pytest.raises(
        SettingError, match=r"is a secret and not for rankloop.toml; set RANKLOOP_"
    ) as refusal:
        Settings.load({}, file)
    assert "hush" not in str(refusal.value)


def test_an_unknown_name_in_the_file_is_refused_with_the_nearest(file: Path) -> None:
    file.write_text("epsilom = 0.1")
    with pytest.raises(SettingError, match=r"epsilom is no setting; did you mean epsilon\?"):
        Settings.load({}, file)


def test_secrets_are_never_shown() -> None:
    settings = Settings(
        security_protocol="SASL_SSL",
        sasl_username="ann",
        sasl_password="hush",
        ssl_key_password="hush",
        redis_url="rediss://ann:hush@redis:6379/0",
    )
    for shown in (repr(settings), str(settings), f"{settings}", str(settings.public())):
        assert "hush" not in shown
        assert "rediss://***@redis:6379/0" in shown


def test_the_hashes_know_what_steers_what() -> None:
    base = Settings()
    steers = {
        "policy": ("uniform", True, True),
        "learning_rate": (0.5, True, True),
        "epsilon": (0.5, False, True),
        "horizon_seconds": (1.0, False, True),
        "encoder": ("other", False, True),
        "brokers": ("kafka:1", False, False),
        "batch_events": (1, False, False),
        "log_level": ("DEBUG", False, False),
        "read_your_writes_seconds": (0.0, False, False),
    }
    for name, (value, fold, decisions) in steers.items():
        other = msgspec.structs.replace(base, **{name: value})
        assert (other.fold_hash() != base.fold_hash()) is fold, name
        assert (other.settings_hash() != base.settings_hash()) is decisions, name
    assert Settings(horizon_seconds=600.0).settings_hash() == base.settings_hash()


def test_auto_hashes_as_the_encoder_it_becomes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    assert Settings().encoder_name == "hash"
    assert Settings().settings_hash() == Settings(encoder="hash").settings_hash()
    monkeypatch.setattr(module, "find_spec", lambda name: name)
    assert Settings().settings_hash() == Settings(encoder="minilm").settings_hash()


def test_the_table_has_a_row_for_every_setting() -> None:
    rows = settings_table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == NAMES
    assert all(row.split("|")[3].strip() for row in rows)


def test_kafka_clients_are_told_how_to_log_in(tmp_path: Path) -> None:
    assert Settings().aiokafka_options() == {
        "bootstrap_servers": "127.0.0.1:9092",
        "security_protocol": "PLAINTEXT",
        "ssl_context": None,
    }
    settings = Settings(
        brokers="a:1, b:2",
        security_protocol="SASL_SSL",
        sasl_username="ann",
        sasl_password="hush",
        ssl_cafile=str(certificate(tmp_path)),
    )
    options = settings.aiokafka_options()
    assert isinstance(options["ssl_context"], ssl.SSLContext)
    assert options["ssl_context"].verify_mode == ssl.CERT_REQUIRED
    assert options["sasl_plain_password"] == "hush"
    options = settings.faust_options()
    assert options["broker"] == ["aiokafka://a:1", "aiokafka://b:2"]
    credentials = options["broker_credentials"]
    assert isinstance(credentials, faust.SASLCredentials)
    assert credentials.mechanism.value == "SCRAM-SHA-256"


def certificate(folder: Path) -> Path:
    path = folder / "ca.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=test -keyout key.pem -out ca.pem"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return path


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_of_a_setting_is_answered_with_the_new_one(
    tmp_path: Path, old: str, new: str
) -> None:
    with pytest.raises(SettingError, match=f"did you mean RANKLOOP_{new.upper()}\\?"):
        Settings.load({f"RANKLOOP_{old.upper()}": "1"})
    file = tmp_path / "settings.toml"
    file.write_text(f"{old} = 1\n")
    with pytest.raises(SettingError, match=f"did you mean {new}\\?"):
        Settings.load({}, file)


def test_an_old_name_of_a_policy_is_answered_with_the_new_one() -> None:
    with pytest.raises(ValueError, match="did you mean 'baseline'"):
        build.policy(Settings(), "producer")


def test_only_the_names_of_settings_changed_the_hashes() -> None:
    """The hashes of release 0.1.0 and of before, over the same values."""
    settings = Settings(encoder="hash")
    old = {new: old for old, new in RENAMED.items()}

    def before(*what: Steers) -> dict[str, Any]:
        return {old.get(name, name): value for name, value in steering(settings, *what).items()}

    fold = {"fold": FOLD, **before("learning")}
    decides = before("joining", "learning", "deciding") | {"encoder": "hash"}
    assert hash_of(fold) == "93001fecdd638c1b"
    assert hash_of(decides) == "62b4145f8e93ce2e"


def test_each_role_says_what_its_worker_does():
    does = {
        name: msgspec.structs.astuple(role) for name, role in ROLES.items()
    }  # folds, ranks, embeds
    assert does == {
        "all": (True, True, True),
        "rank": (False, True, False),
        "learn": (True, False, False),
        "embed": (False, False, True),
    }
    assert {Settings.load({"RANKLOOP_ROLE": name}).role for name in ROLES} == set(ROLES)
    with pytest.raises(SettingError) as refusal:
        Settings.load({"RANKLOOP_ROLE": "cook"})
    assert f"one of {', '.join(map(repr, ROLES))}" in str(refusal.value)


def test_settings_in_a_record_hash_as_they_do_here() -> None:
    """Whole numbers stay whole on their way: else no worker could name what differs."""
    settings = Settings(learning_rate=0.02, seed=7, max_users=1_000)
    told = decode_any(encode(Fold(fold="f", expects="", learning=settings.learning())))
    assert isinstance(told, Fold)
    assert hash_of(told.learning) == settings.fold_hash()
