"""Snapshots: whole or not used at all, and a snapshot with its tail is the whole fold."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from random import Random
from threading import Thread

import msgspec
import numpy as np
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.numpy import load as load_safetensors

from agents.learner import Learner, LearnerState
from models.events import (
    Click,
    Features,
    Interaction,
    Outcome,
    OutcomeSlot,
    Record,
    Request,
    Source,
    chain,
    encode,
)
from models.hash_encoder import HashEncoder
from stream import build
from stream.cli.main import main
from stream.kafka.reader import TopicReader
from stream.settings import Settings
from stream.storage.object_store import FsspecStore, LocalStore, ObjectStore, object_store
from stream.storage.snapshots import (
    LogId,
    Snapshots,
    arrays_of,
    check_last_record,
    check_range,
    open_snapshots,
    snapshot_file,
)
from stream.storage.tensor_file import (
    CHECKSUM,
    HASH_BYTES,
    CorruptFileError,
    SnapshotMismatchError,
    pieces,
    read_header,
    read_tensors,
)
from tests.conftest import Kafka
from tests.support.kafka_helpers import Deployment, now
from tests.support.kafka_worker import eventually

SETTINGS = Settings(encoder="hash", max_users=20, max_items=15)
LOG = LogId("rankloop", "f01d", "0.1")
COUNT = 120


def learner(**changes: object) -> Learner:
    """A learner with nothing learned yet; small enough to forget users and items."""
    return build.parts(msgspec.structs.replace(SETTINGS, **changes), HashEncoder()).learner


@cache
def feedback(count: int = COUNT) -> tuple[bytes, ...]:
    """Records of two partitions, chained, with garbage and repeats among them."""
    rng, chains, made = Random(1), {0: "", 1: ""}, list[bytes]()
    for n in range(count):
        if made and rng.random() < 0.1:
            made.append(rng.choice([b"garbage", made[-1]]))
            continue
        data = encode(record(rng, n, chains))
        chains[msgspec.json.decode(data)["source"][0]] = chain(data)
        made.append(data)
    return tuple(made)


def record(rng: Random, n: int, chains: dict[int, str]) -> Record:
    partition = rng.randrange(2)
    user, items = f"ü{rng.randrange(40)}", [f"i{i}" for i in rng.sample(range(30), 3)]
    source, prev = Source(partition, n, 0), chains[partition]
    if rng.random() < 0.6:
        value = rng.choice([1.0, -1.0, 2.0])
        return Interaction(f"c{n}", user, items[0], n, value, source, prev)
    slots = tuple(
        OutcomeSlot(
            item=item,
            position=position,
            propensity=0.5,
            reward=float(rng.random() < 0.3),
            features=Features(x=(rng.random(),), tags=("t",)),
        )
        for position, item in enumerate(items)
    )
    return Outcome(
        id=f"r{n}",
        user=user,
        at=n,
        status=rng.choice(["complete", "expired", "corrected"]),
        policy="bandit",
        model=0,
        slots=slots,
        source=source,
        features=("knn",),
        prev=prev,
    )


def folded(fold: Learner, upto: int = COUNT) -> Learner:
    """Go on from the learner's version to `upto`."""
    for offset in range(fold.version, upto):
        fold(offset, feedback()[offset])
    return fold


@cache
def digests() -> list[str]:
    """The digest at each version of an uninterrupted fold."""
    fold = learner()
    found = [fold.digest()]
    for offset in range(COUNT):
        found.append(folded(fold, offset + 1).digest())
    return found


@cache
def states() -> tuple[LearnerState, LearnerState]:
    """At 60 and at 80."""
    fold = learner()
    return folded(fold, 60).state(), folded(fold, 80).state()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "snapshots"


@pytest.fixture(params=["folder", "fsspec"])
def place(request: pytest.FixtureRequest, folder: Path) -> Iterator[ObjectStore]:
    """Each kind of store."""
    if request.param == "folder":
        yield LocalStore(folder)
        return
    import fsspec

    yield FsspecStore(f"memory://{folder.parent.name}")
    fsspec.filesystem("memory").rm("/", recursive=True)


def two(place: ObjectStore, keep: int = 5) -> Snapshots:
    """Snapshots at 60 and at 80."""
    snapshots = Snapshots(place, LOG, keep)
    for state in states():
        snapshots.write(state)
    return snapshots


def reloaded(place: ObjectStore) -> Learner:
    fold = learner()
    Snapshots(place, LOG, 5).restore(fold)
    return fold


# A snapshot and its tail


def test_a_snapshot_and_its_tail_are_the_whole_fold_wherever_it_was_taken() -> None:
    place = object_store("memory://cuts")

    @given(st.lists(st.integers(0, COUNT), min_size=1, max_size=3).map(sorted))
    @hypothesis_settings(max_examples=25)
    def cut_anywhere(cuts: list[int]) -> None:
        fold = learner()
        for cut in cuts:
            folded(fold, cut)
            snapshots = Snapshots(place, LOG, COUNT + 1)
            snapshots.write(fold.state())
            fold = learner()
            fold.load(snapshots.read(cut)[1])
            assert (fold.version, fold.digest()) == (cut, digests()[cut])
            assert fold.ledger.last == (chain(feedback()[cut - 1]) if cut else "")
        whole = folded(learner())
        assert folded(fold).digest() == digests()[COUNT]
        assert fold.ledger.state() == whole.ledger.state()

    cut_anywhere()


def test_a_restored_learner_refuses_holes_and_skips_what_it_learned(place: ObjectStore) -> None:
    two(place)
    fold, straight = reloaded(place), folded(learner(), 80)
    for data in feedback()[:80]:
        assert fold(80, data) == straight(80, data) != "learned"


def test_learning_on_while_it_is_written_changes_nothing_in_it(place: ObjectStore) -> None:
    fold = folded(learner(), 60)
    state, snapshots = fold.state(), Snapshots(place, LOG, 5)
    writing = Thread(target=snapshots.write, args=(state,))
    writing.start()
    folded(fold)
    writing.join()
    assert snapshots.read(60)[1].digest() == digests()[60]
    assert state.digest() == digests()[60]


def test_a_state_shares_no_memory_with_the_learner_that_gave_or_took_it() -> None:
    fold = folded(learner(), 60)
    state = fold.state()
    again = learner()
    again.load(state)
    folded(again)
    folded(fold)
    assert state.digest() == digests()[60]
    assert again.digest() == fold.digest() == digests()[COUNT]


def test_a_record_learned_in_part_is_in_no_snapshot() -> None:
    fold = folded(learner(), 60)

    def breaks(*_: object) -> None:
        raise OSError("no memory")

    fold.memory.histories.learn = breaks  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(OSError, match="no memory"):
        folded(fold)
    with pytest.raises(ValueError, match=r"learned in part.*start again from the snapshot before"):
        fold.state()


# The file


def test_any_reader_of_safetensors_reads_it(folder: Path) -> None:
    two(LocalStore(folder))
    arrays = load_safetensors((folder / snapshot_file(80)).read_bytes())
    assert len(arrays.pop(CHECKSUM)) == HASH_BYTES
    ours = arrays_of(states()[1])
    assert arrays.keys() == ours.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, ours[name])
        assert array.dtype == ours[name].dtype


def test_arrays_come_back_as_they_were_empty_ones_and_scalars_too() -> None:
    arrays = {
        "empty": np.zeros((0, 3), np.float32),
        "one": np.array(7, np.int64),
        "cut": np.arange(12.0)[::2],
        "tables": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "bytes": np.frombuffer(b"abc", np.uint8),
    }
    data = b"".join(pieces(arrays, {"a": "ü"}))
    found, back = read_tensors(BytesIO(data), len(data))
    assert found.texts == {"a": "ü"}
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
        assert back[name].flags.writeable and back[name].flags.aligned


def test_a_type_or_name_that_is_not_for_files_is_refused() -> None:
    for arrays in ({"a": np.zeros(1, complex)}, {"../a": np.zeros(1)}, {"": np.zeros(1)}):
        with pytest.raises(ValueError, match="cannot be written"):
            list(pieces(arrays, {}))


# Damage: each kind is noticed, named in the log, and the one before is used


def boundaries(data: bytes) -> set[int]:
    """Where the parts of a file begin and end, and one byte to each side."""
    head = read_header(BytesIO(data), len(data))
    starts = {0, 8, len(head.raw)}
    starts |= {len(head.raw) + end for t in head.tensors.values() for end in t.data_offsets}
    return {at + by for at in starts for by in (-1, 0, 1) if 0 <= at + by < len(data)}


def claims(data: bytes, change: Callable[[dict], None]) -> bytes:
    """The file with another header, and a checksum that is right for it."""
    from hashlib import blake2b

    length = int.from_bytes(data[:8], "little")
    head = msgspec.json.decode(data[8 : 8 + length])
    change(head)
    text = msgspec.json.encode(head)
    made = len(text).to_bytes(8, "little") + text + data[8 + length : -HASH_BYTES]
    return made + blake2b(made, digest_size=HASH_BYTES).digest()


def damages(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Every kind of damage to a file."""
    for at in sorted(boundaries(data)):
        yield f"cut at {at}", data[:at]
    rng = Random(5)
    for _ in range(150):
        at = rng.randrange(8 * len(data))
        spoilt = bytearray(data)
        spoilt[at // 8] ^= 1 << at % 8
        yield f"bit {at}", bytes(spoilt)
    for at in range(8 * 40):  # the length and the beginning of the header, each bit
        spoilt = bytearray(data)
        spoilt[at // 8] ^= 1 << at % 8
        yield f"bit {at}", bytes(spoilt)
    for length in (0, 1, 2**20, 2**20 + 1, 2**31, 2**63, 2**64 - 1):
        yield f"header of {length}", length.to_bytes(8, "little") + data[8:]
    yield "empty", b""
    yield "zeros", bytes(len(data))
    yield "another file", b"PK\x03\x04" + data[4:]
    yield "longer", data + b"\0"
    yield "twice", data + data
    yield "a page of zeros", data[:4096] + bytes(4096) + data[8192:]
    yield "deep", len(b"[" * 9999).to_bytes(8, "little") + b"[" * 9999 + data
    yield "a pickle", b"\x80\x04cos\nsystem\n(S'false'\ntR." + data


def entry(head: dict, **changes: object) -> None:
    head["memory.mf.p"] |= changes


LIES: dict[str, Callable[[dict], None]] = {
    "huge": lambda h: entry(h, shape=[2**40, 2**40]),
    "negative": lambda h: entry(h, shape=[-1, 8]),
    "many dimensions": lambda h: entry(h, shape=[1] * 99),
    "backwards": lambda h: entry(h, data_offsets=[99, 0]),
    "elsewhere": lambda h: entry(h, data_offsets=[2**62, 2**62 + 8]),
    "another's bytes": lambda h: entry(h, data_offsets=h["ledger"]["data_offsets"]),
    "unknown type": lambda h: entry(h, dtype="PICKLE"),
    "unknown field": lambda h: entry(h, code="x"),
    "no checksum": lambda h: h.pop(CHECKSUM),
    "no policy": lambda h: h.__setitem__("policies", h.pop("policy")),
    "a path for a name": lambda h: h.__setitem__("../../etc/passwd", h.pop("policy")),
    "no cover": lambda h: h["__metadata__"].pop("digest"),
    "another version": lambda h: h["__metadata__"].update(version="81"),
    "a version that is no number": lambda h: h["__metadata__"].update(version="x"),
    "another digest": lambda h: h["__metadata__"].update(digest="0" * 16),
    "metadata of numbers": lambda h: h["__metadata__"].update(version=80),
    "another type": lambda h: entry(h, dtype="I32"),
    "another part": lambda h: h.__setitem__("memory.other.x", h.pop("memory.mf.p")),
}


@cache
def good() -> bytes:
    """The file of version 80."""
    place = object_store("memory://good")
    two(place)
    with place.open(snapshot_file(80)) as (file, _):
        return file.read()


def assert_falls_back(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    fold = learner()
    header = Snapshots(LocalStore(folder), LOG, 5).restore(fold)
    assert header is not None and header.version == fold.version == 60
    assert fold.digest() == digests()[60]
    [said] = caplog.records
    assert (said.levelname, said.message) == ("ERROR", "snapshot not used")
    assert vars(said)["version"] == 80 and vars(said)["reason"]


def test_whatever_damages_the_newest_the_one_before_is_used_and_it_is_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    two(LocalStore(folder))
    path = folder / snapshot_file(80)
    for n, (what, spoilt) in enumerate(damages(good())):
        if spoilt == good():
            continue
        path.write_bytes(spoilt)
        with suppress(CorruptFileError, ValueError, OSError):
            pytest.fail(f"{what} was read: {Snapshots(LocalStore(folder), LOG, 5).read(80)[0]}")
        if n % 25 == 0:
            assert_falls_back(folder, caplog)


@pytest.mark.parametrize("lie", LIES.values(), ids=list(LIES))
def test_a_header_that_lies_is_refused_even_under_a_right_checksum(
    lie: Callable[[dict], None], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    two(LocalStore(folder))
    spoilt = claims(good(), lie)
    assert spoilt != good()
    (folder / snapshot_file(80)).write_bytes(spoilt)
    assert_falls_back(folder, caplog)


def test_a_state_that_contradicts_itself_is_refused_and_nothing_of_it_stays() -> None:
    fold, state = folded(learner(), 60), states()[1]
    spoilt = dict(state.memory)
    spoilt["mf.users.touched"] = np.zeros_like(spoilt["mf.users.touched"])
    with pytest.raises(ValueError, match=r"cannot be loaded .*start from an older snapshot"):
        fold.load(msgspec.structs.replace(state, memory=spoilt))
    assert (fold.version, fold.digest()) == (60, digests()[60])
    assert folded(fold).digest() == digests()[COUNT]


@pytest.mark.parametrize(
    "lie", ["huge", "negative", "many dimensions", "backwards", "elsewhere", "another's bytes"]
)
def test_what_does_not_add_up_is_refused_by_its_header_alone(lie: str) -> None:
    spoilt = claims(good(), LIES[lie])
    with pytest.raises(CorruptFileError):
        read_header(BytesIO(spoilt), len(spoilt))


@pytest.mark.parametrize("change", [lambda a: a[:, :-1], lambda a: a.astype(np.float64), np.ravel])
def test_arrays_of_another_shape_or_type_are_refused(
    change: Callable[[np.ndarray], np.ndarray],
) -> None:
    fold, state = learner(), states()[1]
    spoilt = state.memory | {"mf.p": change(state.memory["mf.p"])}
    with pytest.raises(ValueError, match=r"mf.p is float\d+ of shape .*, not float32 like \(0, "):
        fold.load(msgspec.structs.replace(state, memory=spoilt))
    assert (fold.version, fold.digest()) == (0, digests()[0])


def test_absurd_sizes_are_refused_before_anything_is_allocated() -> None:
    def absurd(head: dict) -> None:
        head["memory.mf.p"] |= {"shape": [2**44], "dtype": "U8"}
        end = head["memory.mf.p"]["data_offsets"][0] + 2**44
        head["memory.mf.p"]["data_offsets"][1] = end

    spoilt = claims(good(), absurd)
    with pytest.raises(CorruptFileError):
        read_tensors(BytesIO(spoilt), len(spoilt))


def test_neither_links_nor_folders_nor_pipes_are_read(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    two(LocalStore(folder))
    path = folder / snapshot_file(80)
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert_falls_back(folder, caplog)
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    assert_falls_back(folder, caplog)
    path.unlink()
    path.mkdir()
    assert_falls_back(folder, caplog)
    path.rmdir()
    os.mkfifo(path)
    assert_falls_back(folder, caplog)
    with pytest.raises(OSError, match="is not a plain file"):
        Snapshots(LocalStore(folder), LOG, 5).read(80)


def test_names_that_are_not_ours_are_left_alone(folder: Path) -> None:
    snapshots = two(LocalStore(folder))
    for name in (
        "x.safetensors",
        f"{snapshot_file(99)}.aside",
        f".{snapshot_file(98)}.part",
        "1.safetensors",
    ):
        (folder / name).write_bytes(b"?")
    (folder / f"{'9' * 21}.safetensors").write_bytes(b"?")
    assert snapshots.versions() == [60, 80]
    assert reloaded(LocalStore(folder)).version == 80


def test_with_nothing_good_left_the_learner_is_new(folder: Path) -> None:
    two(LocalStore(folder))
    for version in (60, 80):
        (folder / snapshot_file(version)).write_bytes(b"")
    fold = learner()
    assert Snapshots(LocalStore(folder), LOG, 5).restore(fold) is None
    assert (fold.version, fold.digest()) == (0, digests()[0])


# Writing


def test_only_the_newest_are_kept(place: ObjectStore) -> None:
    snapshots, fold = Snapshots(place, LOG, 2), learner()
    for version in (10, 20, 30, 40):
        snapshots.write(folded(fold, version).state())
    assert snapshots.versions() == [30, 40]


def test_what_was_half_written_is_never_seen(folder: Path) -> None:
    place = LocalStore(folder)

    def breaks() -> Iterator[bytes]:
        yield b"half"
        assert snapshots.versions() == [60, 80]
        raise OSError(28, "No space left on device")

    snapshots = two(place)
    with pytest.raises(OSError, match="No space left"):
        place.put(snapshot_file(99), breaks())
    assert place.names() == [snapshot_file(60), snapshot_file(80)]


def test_a_disk_that_is_full_keeps_the_snapshots_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots = two(LocalStore(folder), keep=2)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        snapshots.write(folded(learner(), 90).state())
    assert snapshots.store.names() == [snapshot_file(60), snapshot_file(80)]


def test_what_a_killed_worker_left_is_removed_once_it_is_old(folder: Path) -> None:
    two(LocalStore(folder))
    old, new = folder / f".{snapshot_file(70)}.a.part", folder / f".{snapshot_file(70)}.b.part"
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (1, 1))
    LocalStore(folder).put("x", [b""])
    assert (old.exists(), new.exists()) == (False, True)


def test_only_the_owner_may_read_what_was_learned_of_people(folder: Path) -> None:
    two(LocalStore(folder))
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / snapshot_file(80)).stat().st_mode & 0o077 == 0


# Of another log, other settings, another format


@pytest.mark.parametrize(
    ("mine", "remedy"),
    [
        (LogId("films", "f01d", "0.1"), "is of the log 'rankloop', not 'films'; give each log"),
        (LogId("rankloop", "other", "0.1"), "run with those settings, or fold the log again"),
    ],
)
def test_a_good_snapshot_of_another_fold_is_refused_never_mixed(
    place: ObjectStore, mine: LogId, remedy: str
) -> None:
    two(place)
    fold = learner()
    with pytest.raises(SnapshotMismatchError, match=remedy):
        Snapshots(place, mine, 5).restore(fold)
    assert fold.version == 0


@pytest.mark.parametrize("format", ["0", "1", "", "x" * 1000])
def test_another_format_is_refused_with_the_remedy(folder: Path, format: str) -> None:
    two(LocalStore(folder))
    spoilt = claims(good(), lambda head: head["__metadata__"].update(format=format))
    (folder / snapshot_file(80)).write_bytes(spoilt)
    with pytest.raises(
        SnapshotMismatchError, match="reads 2; run the release that wrote it, or fold"
    ):
        reloaded(LocalStore(folder))


def test_a_log_that_does_not_reach_the_snapshot_is_refused() -> None:
    check_range(5, 0, 5, "feedback")
    check_range(5, 5, 9, "feedback")
    with pytest.raises(
        SnapshotMismatchError, match="ends at 4, but was learned up to 5: it is another log"
    ):
        check_range(5, 0, 4, "feedback")
    with pytest.raises(SnapshotMismatchError, match="begins at 6, but was learned up to 5 only"):
        check_range(5, 6, 9, "feedback")
    with pytest.raises(SnapshotMismatchError, match="begins at 6, but was learned up to 0 only"):
        check_range(0, 6, 9, "feedback")


def test_a_log_with_another_record_before_the_snapshot_is_refused() -> None:
    state = states()[1]
    check_last_record(state.ledger.last, chain(feedback()[79]), 80, "feedback")
    with pytest.raises(SnapshotMismatchError, match="holds another record at 79"):
        check_last_record(state.ledger.last, chain(b"other"), 80, "feedback")


# Rollback


def test_rolled_back_snapshots_are_set_aside_not_deleted(place: ObjectStore) -> None:
    snapshots = two(place)
    assert snapshots.rollback(79) == [f"{snapshot_file(80)}.aside"]
    assert snapshots.versions() == [60]
    assert folded(reloaded(place)).digest() == digests()[COUNT]
    snapshots.write(states()[1])
    assert snapshots.rollback(0) == [f"{snapshot_file(60)}.aside", f"{snapshot_file(80)}.aside-2"]
    assert reloaded(place).version == 0
    assert len(place.names()) == 3


# The command line


@pytest.fixture
def rankloop(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Runs `rankloop snapshots ...` in a store with 60 and 80; `folder` is that of the fold."""
    monkeypatch.setenv("RANKLOOP_SNAPSHOT_URL", str(tmp_path))
    monkeypatch.setenv("RANKLOOP_ENCODER", "hash")
    folder.symlink_to(tmp_path / Settings.load().fold_hash())
    for state in states():
        open_snapshots(Settings.load()).write(state)
    return lambda *arguments: CliRunner().invoke(main, ["snapshots", *arguments])


def test_they_are_listed_and_shown(rankloop: Callable[..., Result], folder: Path) -> None:
    listed = rankloop("list")
    assert listed.exit_code == 0
    _, newest, oldest = listed.output.splitlines()
    assert f"version 80, digest {digests()[80]}, log rankloop" in newest
    assert f"version 60, digest {digests()[60]}, log rankloop" in oldest
    shown = rankloop("show", "80")
    assert shown.exit_code == 0
    assert f"digest {digests()[80]}" in shown.output
    assert "memory.popularity.counts" in shown.output
    (folder / snapshot_file(80)).write_bytes(b"?")
    assert "NOT USABLE: a file of 1 bytes cannot have a header" in rankloop("list").output
    assert rankloop("show", "80").exit_code == 1
    assert "No such file" in rankloop("show", "79").output


def test_verify_finds_what_is_not_good(rankloop: Callable[..., Result], folder: Path) -> None:
    assert rankloop("verify").exit_code == 0
    spoilt = bytearray((folder / snapshot_file(80)).read_bytes())
    spoilt[-HASH_BYTES - 1] ^= 1
    (folder / snapshot_file(80)).write_bytes(spoilt)
    found = rankloop("verify")
    assert found.exit_code == 1
    assert found.output.splitlines() == [
        f"60: good, digest {digests()[60]}",
        "80: NOT USABLE: its checksum is wrong",
    ]
    assert rankloop("verify", "60").exit_code == 0


def test_each_fold_has_a_folder_of_its_own(
    rankloop: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rankloop("list").output.startswith("2 snapshots in ")
    monkeypatch.setenv("RANKLOOP_EPSILON", "0.7")
    assert rankloop("list").output.startswith("2 snapshots in ")
    monkeypatch.setenv("RANKLOOP_SEED", "7")
    assert rankloop("list").output.startswith("0 snapshots in ")


def test_rollback_says_where_workers_start(rankloop: Callable[..., Result], folder: Path) -> None:
    assert "workers start from version 60" in rankloop("rollback", "79").output
    assert "workers start from version 0" in rankloop("rollback", "0").output
    assert len(list(folder.iterdir())) == 2


def test_a_url_that_nothing_opens_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANKLOOP_SNAPSHOT_URL", "carrier-pigeon://ann:hush@loft")
    refused = CliRunner().invoke(main, ["snapshots", "list"])
    assert refused.exit_code == 2
    assert "nothing here opens carrier-pigeon://" in refused.output
    assert "hush" not in refused.output


# On a real broker


Make = Callable[..., Deployment]


@pytest.fixture
def deployment(kafka: Kafka, topic_prefix: str, folder: Path) -> Iterator[Make]:
    """Makes a rankloop of its own on the broker, whose workers share one folder of snapshots."""

    def make(**changes: object) -> Deployment:
        usual = {"partitions": 1, "snapshot_url": folder, "snapshot_seconds": 0}
        return stack.enter_context(
            Deployment(kafka.brokers, topic_prefix, folder.parent, **(usual | changes))
        )

    with ExitStack() as stack:
        yield make


def clicked(loop: Deployment, begin: int, count: int = 60) -> None:
    """Clicks, and requests, all folded."""
    for n in range(begin, begin + count):
        user, at = f"user:{n % 7}", now()
        loop.publish(
            Click(id=f"c{n}", user=user, item=f"item:{n % 30}", at=at),
            Request(id=f"r{n}", user=user, at=at, k=3),
        )
    loop.settled()


def forget(loop: Deployment, offset: int) -> None:
    """Remove all feedback below an offset, as retention would."""

    async def delete() -> None:
        admin = AIOKafkaAdminClient(**loop.settings.aiokafka_options())
        await admin.start()
        try:
            where = TopicPartition(loop.topics.feedback, 0)
            await admin.delete_records({where: RecordsToDelete(before_offset=offset)})
        finally:
            await admin.close()

    asyncio.run(delete())


@pytest.mark.kafka
def test_after_kill_9_only_the_tail_of_feedback_is_folded(
    apache_kafka: Kafka, deployment: Make
) -> None:
    loop = deployment(snapshot_seconds=0.3)
    [doomed] = loop.ready()
    loop.stock()
    clicked(loop, 0)
    eventually(lambda: doomed.status()["snapshot"]["version"], "a snapshot")
    clicked(loop, 60)
    doomed.kill()
    loop.records()  # what is forgotten now is still known here
    version = open_snapshots(loop.settings).versions()[-1]
    forget(loop, version - 1)  # to fold from 0 is impossible now
    [worker] = loop.ready()
    assert f"snapshot loaded version={version} " in worker.words()
    clicked(loop, 120)
    version, digest = loop.agreed()
    assert loop.folded(version).digest() == digest
    assert len(loop.decisions()) >= 180


@pytest.mark.kafka
def test_what_came_while_learning_was_held_is_read_again_in_its_order(deployment: Make) -> None:
    loop, taken = deployment(), list[int]()
    topic = loop.topics.feedback
    where, options = TopicPartition(topic, 0), loop.settings.aiokafka_options()

    async def held() -> None:
        reader = TopicReader(loop.settings)
        await reader.start()
        reader.subscribe(where, 0, lambda message: taken.append(message.offset))
        running = asyncio.create_task(reader.run())
        async with AIOKafkaProducer(**options) as producer, asyncio.timeout(30):
            for _ in range(5):
                await producer.send_and_wait(topic, b"x")
            await reader.wait_until(where, 5)
            reader.pause(where)
            for _ in range(5):
                await producer.send_and_wait(topic, b"x")
            while where not in reader._missed:
                await asyncio.sleep(0.01)
            assert taken == [0, 1, 2, 3, 4]
            reader.resume(where)
            for _ in range(5):
                await producer.send_and_wait(topic, b"x")
            await reader.wait_until(where, 15)
        await reader.stop()
        await running

    asyncio.run(held())
    assert taken == list(range(15))


@pytest.mark.kafka
def test_learning_misses_nothing_while_snapshots_are_made_all_the_time(deployment: Make) -> None:
    loop = deployment(snapshot_seconds=0.01)
    [worker] = loop.ready()
    loop.stock()
    for begin in range(0, 2_000, 200):
        loop.publish(
            *(
                Click(id=f"c{n}", user=f"user:{n % 50}", item=f"item:{n % 40}", at=now())
                for n in range(begin, begin + 200)
            )
        )
    loop.settled()
    version, digest = loop.agreed()
    assert loop.folded(version).digest() == digest
    assert worker.status()["learned"] == {"learned": version - 1, "noted": 1}
    assert worker.words().count("snapshot written") > 5


@pytest.mark.kafka
def test_a_clean_stop_keeps_all_that_was_learned(deployment: Make) -> None:
    loop = deployment()
    [worker] = loop.ready()
    loop.stock()
    clicked(loop, 0)
    version, digest = loop.agreed()
    said = worker.status()["snapshot"]
    assert (said["version"], said["age_seconds"], said["failed"]) == (None, None, 0)
    assert worker.stop() == 0
    kept = open_snapshots(loop.settings)
    assert kept.versions()[-1] >= version
    [again] = loop.ready()
    said = again.status()["snapshot"]
    assert said["version"] == kept.versions()[-1] and 0 <= said["age_seconds"] < 60
    version, digest = loop.agreed()
    assert loop.folded(version).digest() == digest


@pytest.mark.kafka
def test_a_disk_that_fails_stops_no_worker(deployment: Make, folder: Path) -> None:
    folder.write_text("not a folder")
    loop = deployment(snapshot_seconds=0.1)
    [worker] = loop.ready()
    loop.stock()
    clicked(loop, 0)
    eventually(lambda: worker.status()["snapshot"]["failed"] > 1, "it tried again")
    clicked(loop, 60)
    assert "snapshot not written" in worker.words()


@pytest.mark.kafka
def test_a_worker_refuses_a_log_that_ends_before_its_snapshot_until_it_is_rolled_back(
    deployment: Make,
) -> None:
    loop = deployment(max_users=20, max_items=15)
    kept = open_snapshots(loop.settings)
    kept.write(states()[1])
    worker = loop.worker()
    assert worker.ended() != 0
    assert "ends at 0, but was learned up to 80: it is another log" in worker.words()
    assert "`rankloop snapshots rollback 0`" in worker.words()
    kept.rollback(0)
    loop.ready()


@pytest.mark.kafka
def test_a_worker_refuses_a_log_with_other_records(deployment: Make) -> None:
    loop = deployment(max_users=20, max_items=15)
    loop.send_all((b"another log", "", loop.topics.feedback, 0) for _ in range(90))
    open_snapshots(loop.settings).write(states()[1])
    worker = loop.worker()
    assert worker.ended() != 0
    assert "holds another record at 79 than the one learned" in worker.words()


@pytest.mark.kafka
def test_a_log_that_lost_its_beginning_is_refused_without_a_snapshot(
    apache_kafka: Kafka, deployment: Make
) -> None:
    loop = deployment()
    loop.send_all((b"garbage", "", loop.topics.feedback, 0) for _ in range(5))
    forget(loop, 3)
    worker = loop.worker()
    assert worker.ended() != 0
    assert "begins at 3, but was learned up to 0 only: what lies between" in worker.words()


@pytest.mark.kafka
def test_retention_that_outruns_snapshots_is_an_alarm(
    apache_kafka: Kafka, deployment: Make
) -> None:
    loop = deployment()
    [worker] = loop.ready()
    loop.stock()
    clicked(loop, 0)
    forget(loop, 50)
    eventually(lambda: "retention outruns what is kept" in worker.words(), "an alarm")
    assert "begins at 50, behind this worker's newest snapshot (none)" in worker.words()
