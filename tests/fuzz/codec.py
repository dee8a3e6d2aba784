"""Coverage-guided bytes for the codec and the bandit's text: `make fuzz`; not part of the tests."""
# pyright: basic, reportAttributeAccessIssue=false, reportMissingImports=false

import sys

import atheris

with atheris.instrument_imports(include=["models", "policies.vowpal_text"]):
    from models.events import Features, Invalid, decode_any, encode
    from policies.vowpal_text import head, item, shared


def one(data: bytes) -> None:
    """Bytes are read whole or refused; as a name they give no sign that steers the bandit."""
    try:
        message = decode_any(data)
        assert decode_any(encode(message)) == message
    except Invalid:
        pass
    text = data.decode("utf-8", "surrogateescape")
    lines = [head(shared(text, {text: text})), item((text,), Features((1.0,), (text,), (1.0,)))]
    assert [line.count("|") for line in lines] == [2, 3]
    assert not any(sign in line for line in lines for sign in "\n\t\r\0")


atheris.Setup(sys.argv, one)
atheris.Fuzz()
