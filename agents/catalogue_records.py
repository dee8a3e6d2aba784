"""What a message of `items` or `embeddings` says of its key.

Compaction keeps the last message of a key, and in the end not even that if it has no value. So the
last message of a key alone decides: one that cannot be used says that there is nothing under its
key, as a null value does. Else one version of a log would be two catalogues.
"""

from msgspec import Struct

from models.catalogue import Catalogue
from models.events import (
    Embedding,
    InvalidMessageError,
    Item,
    decode_embedding,
    read_item,
)

SHOWN = 100  # characters of a wrong key in a reason


class ItemRecord(Struct, frozen=True):
    """The item that `id` is from here on, or none; `invalid` says why a message is a dead letter.

    >>> ItemRecord.of(b"film:1", b'{"type":"item","id":"film:1","at":0}').item.id
    'film:1'
    >>> ItemRecord.of(b"film:1", None)
    ItemRecord(id='film:1', item=None, invalid='')
    >>> ItemRecord.of(b"films", b'{"type":"item","id":"film:1","at":0}').invalid[:54]
    "wrong key: the key is 'films', the item's id 'film:1';"
    """

    id: str | None = None  # None: nobody's
    item: Item | None = None
    invalid: str = ""

    @classmethod
    def of(cls, key: bytes | None, value: bytes | None, appended: int = 0) -> "ItemRecord":
        """From a message's key, b"" for none, and value; with a key of None, as if it was right."""
        id = _text(key)
        if value is None:
            return cls(id, None, "" if id else _nobodys("its item's id", key))
        try:
            item = read_item(value, appended)
        except InvalidMessageError as error:
            return cls(id, None, f"invalid: {error}")
        if key is not None and key != item.id.encode():
            return cls(id, None, _wrong(key, "the item's id", item.id, "the item's id"))
        return cls(item.id, item)

    def fold(self, catalogue: Catalogue, offset: int) -> None:
        """Take it into a catalogue."""
        if self.item is not None:
            catalogue.fold_item(offset, self.item)
        else:
            catalogue.forget_item(offset, self.id)


class EmbeddingRecord(Struct, frozen=True):
    """The vector that is under `key` from here on, or none; `invalid` as in `ItemRecord`.

    >>> EmbeddingRecord.of(b"hash1/8 film:1", None)
    EmbeddingRecord(key='hash1/8 film:1', embedding=None, invalid='')
    """

    key: str | None = None
    embedding: Embedding | None = None
    invalid: str = ""

    @classmethod
    def of(cls, key: bytes | None, value: bytes | None) -> "EmbeddingRecord":
        """From a message's key and value, as for items."""
        text = _text(key)
        if value is None:
            return cls(text, None, "" if text else _nobodys("its encoder and item id", key))
        try:
            made = decode_embedding(value)
        except InvalidMessageError as error:
            return cls(text, None, f"invalid: {error}")
        right = embedding_key(made.encoder, made.id)
        if key is not None and key != right:
            must = "its encoder, a space and the item's id"
            return cls(text, None, _wrong(key, "the item's id", made.id, must))
        return cls(right.decode(), made)

    def fold(self, catalogue: Catalogue, offset: int) -> None:
        """Take it into a catalogue; what is under another encoder's key changes nothing there."""
        made, own = self.embedding, f"{catalogue.encoder} "
        if made is not None and made.encoder == catalogue.encoder:
            catalogue.fold_embedding(offset, made)
        elif self.key is not None and self.key.startswith(own):
            catalogue.forget_embedding(offset, self.key.removeprefix(own))
        elif made is not None:
            catalogue.fold_embedding(offset, made)  # counted there
        else:
            catalogue.forget_embedding(offset, None)


def embedding_key(encoder: str, id: str) -> bytes:
    """Compaction keeps the last vector of each encoder: one encoder's never removes another's.

    >>> embedding_key("hash1/8", "film:1")
    b'hash1/8 film:1'
    """
    return f"{encoder} {id}".encode()


def _text(key: bytes | None) -> str | None:
    try:
        return (key or b"").decode() or None
    except UnicodeDecodeError:
        return None


def _shown(key: bytes | None) -> str:
    if not key:
        return "missing"
    return repr(_text(key) or key)[:SHOWN]


def _nobodys(must: str, key: bytes | None) -> str:
    return (
        f"wrong key: the key of a message without a value is {_shown(key)}, and must be {must} in "
        "UTF-8, to say what it deletes"
    )


def _wrong(key: bytes, what: str, is_: str, must: str) -> str:
    return (
        f"wrong key: the key is {_shown(key)}, {what} {is_!r}; the key must be {must}, or "
        "compaction, which keeps one message a key, removes what it should not"
    )
