"""Batches of a log as a consumer opens them: every codec, and what cannot be opened."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.errors import UnsupportedCodecError
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st

from stream.kafka.consumer import UnreadableBatchError, name_unreadable_batches, unreadable

ROOT = Path(__file__).parents[2]
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
VALUES = [b'{"type":"click","n":%d}' % n * 20 for n in range(4)]
HEADER = 61  # bytes before a batch's records
CRC = 17


def batch(base: int, codec: str = "none") -> bytearray:
    """Four records from an offset on, as a broker stores them."""
    made = DefaultRecordBatchBuilder(2, CODECS[codec], 0, -1, -1, -1, 1 << 16)
    for n, value in enumerate(VALUES):
        assert made.append(n, 1000 + n, b"ann", value, [])
    data = bytearray(made.build())
    data[0:8] = base.to_bytes(8)
    return data


def signed(data: bytearray) -> bytearray:
    """The batch with the checksum of what it holds now."""
    data[CRC : CRC + 4] = calc_crc32c(bytes(data[CRC + 4 :])).to_bytes(4)
    return data


def fetched(data: bytes | bytearray, begin: int) -> PartitionRecords:
    name_unreadable_batches()
    records = MemoryRecords(bytes(data))
    tp = TopicPartition("t.events", 3)
    none = cast(Any, None)
    return PartitionRecords(tp, records, [], begin, none, none, True, READ_COMMITTED)


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_of_kafka_is_read(codec: str) -> None:
    found = fetched(batch(100, codec) + batch(104, codec), 100)
    assert [message.value for message in found] == VALUES * 2


@given(
    codec=st.sampled_from(list(CODECS)),
    place=st.integers(0, 1 << 12),
    change=st.integers(1, 255),
    checked=st.booleans(),
)
def test_a_spoilt_batch_is_named_after_all_before_it_was_read(
    codec: str, place: int, change: int, checked: bool
) -> None:
    """Either its checksum tells, or what it holds cannot be opened, or it holds other records."""
    spoilt = batch(104, codec)
    spoilt[HEADER + place % (len(spoilt) - HEADER)] ^= change
    data = batch(100) + (signed(spoilt) if checked else spoilt)
    first = fetched(data, 100)
    before = [first.__next__().value for _ in VALUES]
    assert before == VALUES
    list(first)  # without an error: what was read comes first
    try:
        list(fetched(data, first.next_fetch_offset))
    except UnreadableBatchError as error:
        text = str(error)
    else:
        assert checked
        return
    assert f"t.events-3 cannot be read from offset {first.next_fetch_offset}" in text
    assert '"topic":"t.events","partition":3,"offset":108' in text
    assert "\n" not in text


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_an_unknown_codec_is_named_with_its_place(codec: int) -> None:
    data = batch(100)
    data[22] = data[22] & ~7 | codec
    with pytest.raises(UnreadableBatchError, match=r"t\.events-3 .* offset 100 to 103: .*codec"):
        list(fetched(signed(data), 100))


def test_a_missing_codec_says_what_to_install() -> None:
    missing = UnsupportedCodecError("Libraries for lz4 compression codec not found")
    assert unreadable("t", 0, 1, 2, missing).endswith("pip install 'aiokafka[lz4,snappy,zstd]'")


def test_aiokafka_alone_forgets_what_came_before_a_spoilt_batch() -> None:
    """Why the patch is there; when this fails, look whether it still is needed."""
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import tests.unit.test_consumer as t
t.name_unreadable_batches = lambda: None
spoilt = t.batch(104)
spoilt[-1] ^= 1
records = t.fetched(t.batch(100) + spoilt, 100)
try:
    list(records)
except Exception as error:
    print(type(error).__name__, records.next_fetch_offset)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout.split() == ["CorruptRecordException", "104"], ran.stderr


def test_every_consumer_is_made_where_only_what_was_committed_is_read() -> None:
    """Consumers come from `committed_consumer`; a new one that does not is found here."""
    made = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "stream").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "AIOKafkaConsumer"
    }
    assert made == {"stream/kafka/consumer.py"}
