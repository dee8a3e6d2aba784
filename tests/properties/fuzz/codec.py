"""Coverage-guided bytes for the codec and the bandit's text: `make fuzz`; not part of the tests."""
# pyright: basic, reportAttributeAccessIssue=false, reportMissingImports=false

import sys
from hashlib import blake2b
from pathlib import Path
from tempfile import mkdtemp

import atheris

with atheris.instrument_imports(include=["models", "policies.vowpal_text"]):
    from models.events import (
        Click,
        Decision,
        Embedding,
        Features,
        Impression,
        Interaction,
        InvalidMessageError,
        Item,
        Outcome,
        OutcomeSlot,
        Request,
        Reward,
        Slot,
        Source,
        Tick,
        decode_any,
        encode,
    )
    from policies.vowpal_text import head, item, shared


def one(data: bytes) -> None:
    """Bytes are read whole or refused; as a name they give no sign that steers the bandit."""
    try:
        message = decode_any(data)
        assert decode_any(encode(message)) == message
    except InvalidMessageError:
        pass
    text = data.decode("utf-8", "surrogateescape")
    lines = [head(shared(text, {text: text})), item((text,), Features((1.0,), (text,), (1.0,)))]
    assert [line.count("|") for line in lines] == [2, 3]
    assert not any(sign in line for line in lines for sign in "\n\t\r\0")


def seeds() -> str:
    """A folder with a message of each kind: what is no JSON at all is refused too early."""
    folder, seen = Path(mkdtemp(prefix="rankloop-fuzz-")), Features((1.0,), ("news",), (0.5,))
    judged = OutcomeSlot(item="i", position=0, propensity=0.5, reward=1.0, features=seen)
    whose = {"id": "r", "user": "u", "at": 3}
    versions = {"policy": "p", "model": 0}
    for message in (
        Item(id="i", at=1, title="a book", tags=("news",)),
        Request(**whose, k=3, context={"page": "home", "n": 1.5, "new": True}),
        Click(**whose, item="i", request="r"),
        Reward(**whose, value=2.0, request="r"),
        Impression(**whose, request="r", shown=("i",)),
        Tick(at=4),
        Embedding(id="i", encoder="e", text_hash="0" * 16, vector=b"00"),
        Decision(
            **whose,
            **versions,
            k=1,
            items=0,
            embeddings=0,
            source=3,
            slots=(Slot(item="i", propensity=0.5, features=seen),),
        ),
        Interaction(**whose, item="i", value=1.0, source=Source(0, 3, 1)),
        Outcome(**whose, **versions, status="complete", slots=(judged,), source=Source(0, 3, 0)),
    ):
        data = encode(message)
        (folder / blake2b(data, digest_size=8).hexdigest()).write_bytes(data)
    return str(folder)


atheris.Setup([*sys.argv, seeds()], one)
atheris.Fuzz()
