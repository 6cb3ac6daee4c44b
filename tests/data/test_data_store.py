"""Rows of tokens on disk: equal to what was written, decoded on access, whole or not there."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pytest
from rows_at_hand import conversations, rankings

from posttrain.data import store, tokenise
from posttrain.data.arrow import GROUPS, RANKINGS, Row
from posttrain.data.cache import Cache, cache_home
from posttrain.data.examples import RankedItem
from posttrain.data.pack import pack, split_by_tokens
from posttrain.data.rankings import ranked_batch
from posttrain.data.store import Store, StoreWriter
from posttrain.data.views import Changed, Chosen, Joined
from posttrain.errors import DataError, DoesNotFit, Problem
from posttrain.text.chat import Codec
from posttrain.types import ChatRecord, Message, PrefixGroup, RankedRecord, Record, Span, TextRecord

ItemT = TypeVar("ItemT")


def written(path: Path, groups: Sequence[PrefixGroup]) -> Store[PrefixGroup]:
    with StoreWriter(path, GROUPS) as writer:
        writer.append(Row(group, number, 2**64 - 1 - number) for number, group in enumerate(groups))
    return Store(path, GROUPS)


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    groups = [*conversations(2_503), PrefixGroup(id="空 row", root=Span(tokens=(), trained=()))]
    found = written(tmp_path / "rows", groups)
    assert len(found) == 2_504
    assert list(found) == groups
    assert found[-1] == groups[-1]
    assert list(found[1_000:1_003]) == groups[1_000:1_003]
    assert found.lengths.tolist() == [len(group) for group in groups]
    assert found.prompts.tolist() == list(range(2_504))
    assert found.contents[3] == 2**64 - 4
    assert found.id_of(2_503) == "空 row"
    with pytest.raises(IndexError):
        found[2_504]


def test_types_are_those_of_python(tmp_path: Path) -> None:
    first = written(tmp_path / "rows", conversations(1))[0]
    assert {type(token) for token in first.root.tokens} == {int}
    assert {type(mark) for mark in first.root.trained} == {bool}


def test_rankings_come_back_with_ranks_weights_and_annotators(tmp_path: Path) -> None:
    items = rankings(30)
    items.append(RankedItem(group=items[0].group, ranks=(None, 1), weight=0.1, margin=0.3, annotator="Ann"))
    with StoreWriter(tmp_path / "rows", RANKINGS) as writer:
        writer.append(Row(item, 1, 2) for item in items)
    assert list(Store(tmp_path / "rows", RANKINGS)) == items


def test_nothing_is_a_store_of_no_rows(tmp_path: Path) -> None:
    found = written(tmp_path / "rows", [])
    assert (len(found), found.lengths.shape, found.prompts.dtype) == (0, (0,), np.uint64)


def test_batches_from_a_store_are_those_from_a_list(tmp_path: Path) -> None:
    groups = conversations(300)
    plain = [pack(run) for run in split_by_tokens(groups, 64, size=len)]
    stored = [pack(run) for run in split_by_tokens(written(tmp_path / "rows", groups), 64, size=len)]
    assert len(plain) == len(stored) > 20
    for ours, theirs in zip(plain, stored, strict=True):
        for name in ("tokens", "positions", "segment", "parent", "predictor", "trained"):
            assert getattr(ours, name).equal(getattr(theirs, name)), name


def test_ranked_batches_from_a_store_are_those_from_a_list(tmp_path: Path) -> None:
    items = rankings(20)
    with StoreWriter(tmp_path / "rows", RANKINGS) as writer:
        writer.append(Row(item, 1, 2) for item in items)
    ours = ranked_batch(items, ties="soft", pair_weight="prompt")
    theirs = ranked_batch(Store(tmp_path / "rows", RANKINGS), ties="soft", pair_weight="prompt")
    for name in ("responses", "prompt", "ranks", "pairs", "targets", "weights", "margins", "reference"):
        assert getattr(ours, name).equal(getattr(theirs, name)), name


def test_a_batch_ends_before_its_tokens_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BATCH_TOKENS", 100)
    long = Span.all(range(60), trained=True)
    written(tmp_path / "rows", [PrefixGroup(id=str(n), root=long) for n in range(7)])
    assert pa.ipc.open_file(pa.memory_map(str(tmp_path / "rows"))).num_record_batches == 4


def test_a_full_disk_is_said_in_bytes(tmp_path: Path) -> None:
    (tmp_path / "rows").symlink_to("/dev/full")
    with pytest.raises(DoesNotFit, match="MB are free\n  fix: free some space, or set POSTTRAIN_CACHE"):
        written(tmp_path / "rows", conversations(2_000))


# --- one pass: records to a store -----------------------------------------------------------------------------------


class Reading:
    """A source of made-up records; `most` is the largest number of them that were alive at once."""

    def __init__(self, records: Sequence[Record] | Iterator[Record], name: str = "train.jsonl") -> None:
        self.path = name
        self.format = "made up"
        self.identity = "0" * 64
        self.size = 100
        self.records = records
        self.tally = Tally()

    def __iter__(self) -> Iterator[Record]:
        for record in self.records:
            self.tally.rows += 1
            yield record


class Tally:
    rows = 0
    records = 0
    duplicates = 3
    bad = 1

    def __init__(self) -> None:
        self.problems = [Problem(place="train.jsonl:7", what="no answer", fix="write one")]


def chat(number: int, answer: str = "yes") -> ChatRecord:
    asked = Message(role="user", content=f"{number}?")
    return ChatRecord(id=f"train.jsonl:{number}", messages=(asked, Message(role="assistant", content=answer)))


@pytest.fixture
def codec(tiny_model: Path) -> Codec:
    return Codec.load(tiny_model)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    (tmp_path / "cache").mkdir()
    return Cache(tmp_path / "cache")


def silent(line: str) -> None:
    raise AssertionError(f"nothing should be said: {line}")


def tokens(
    reading: Reading,
    encoder: tokenise.Encoder[ItemT],
    cache: Cache,
    *,
    say: Callable[[str], None] = silent,
    **settings: int,
) -> tokenise.Tokens[ItemT]:
    return tokenise.tokens_of(reading, encoder, cache, say, settings)


def names(cache: Cache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir())


def test_a_store_holds_what_the_codec_makes_of_each_record(codec: Codec, cache: Cache) -> None:
    records = [*(chat(number) for number in range(2_100)), chat(0, "x" * 90)]
    found = tokens(Reading(records), tokenise.conversations(codec, 60, "drop", "assistant"), cache)
    spans = [codec.conversation(record)[0] for record in records[:-1]]
    assert [group.root for group in found.items] == spans
    assert [group.id for group in found.items] == [record.id for record in records[:-1]]
    report = found.report
    assert (report.rows, report.duplicates, report.bad, report.kept) == (2_101, 3, 1, 2_100)
    assert {name: count for name, count in report.losses.items() if count} == {"overlong": 1}
    assert report.shortest == len(codec.conversation(records[-1])[0].tokens)
    assert not found.cached


def test_the_hash_of_a_prompt_does_not_depend_on_its_answer_nor_on_what_is_trained(codec: Codec, cache: Cache) -> None:
    asked = Message(role="user", content="1?", train=False)
    records = [chat(1), chat(1, "no"), chat(2), ChatRecord(id="4", messages=(asked, chat(1).messages[-1]))]
    one = tokens(Reading(records), tokenise.conversations(codec, 60, "drop", "assistant"), cache)
    prompts = one.items.prompts.tolist()
    assert prompts[0] == prompts[1] == prompts[3] != prompts[2]
    assert len(set(one.items.contents.tolist())) == 4
    ranked = RankedRecord(id="r", prompt=(Message(role="user", content="1?"),), responses=("a", "b"), ranks=(1, 2))
    two = tokens(Reading([ranked]), tokenise.rankings(codec, 60, "drop"), cache)
    assert two.items.prompts.tolist() == prompts[:1]
    assert two.items[0].group == codec.ranked(ranked)


def test_memory_does_not_grow_with_the_rows(codec: Codec, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two chunks of records and a batch of rows are alive at most, however many there are."""
    monkeypatch.setattr(tokenise, "CHUNK", 64)
    monkeypatch.setattr(store, "BATCH_ROWS", 50)
    most: Counter[str] = Counter()

    def records() -> Iterator[Record]:
        for number in range(4_000):
            if number % 999 == 0:
                alive = Counter(type(thing).__name__ for thing in gc.get_objects())
                for name in ("TextRecord", "PrefixGroup", "Span"):
                    most[name] = max(most[name], alive[name])
            yield TextRecord(id=str(number), text="ab")

    encoder = tokenise.conversations(codec, 60, "drop", "assistant")
    found = tokens(Reading(records()), encoder, cache)
    assert len(found.items) == 4_000
    assert 0 < most["TextRecord"] <= 2 * 64
    assert 0 < most["PrefixGroup"] <= 64 + 50
    assert most["Span"] <= 2 * 64 + 50


# --- the cache ------------------------------------------------------------------------------------------------------


def test_a_second_pass_reads_no_row_and_makes_no_token(
    codec: Codec, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = tokenise.conversations(codec, 60, "drop", "assistant")
    first = tokens(Reading([chat(1), chat(2, "x" * 90)]), encoder, cache)

    def never(*given: object, **named: object) -> None:
        raise AssertionError("the tokenizer was called")

    for name in ("conversations", "texts", "rankings"):
        monkeypatch.setattr(Codec, name, never)
    reading = Reading([chat(1)])
    second = tokens(reading, encoder, cache)
    assert reading.tally.rows == 0
    assert list(second.items) == list(first.items)
    assert second.report == first.report
    assert second.report.problems == (Problem(place="train.jsonl:7", what="no answer", fix="write one"),)
    assert (first.cached, second.cached) == (False, True)


def test_whatever_the_tokens_depend_on_makes_another_entry(codec: Codec, cache: Cache, tiny_model: Path) -> None:
    def make(reading: Reading, encoder: tokenise.Encoder[PrefixGroup], **settings: int) -> None:
        assert not tokens(reading, encoder, cache, **settings).cached

    other = Reading([chat(1)])
    other.identity = "1" * 64
    notes = Codec.load(tiny_model, template="notes")
    make(Reading([chat(1)]), tokenise.conversations(codec, 60, "drop", "assistant"))
    make(other, tokenise.conversations(codec, 60, "drop", "assistant"))
    make(Reading([chat(1)], "copy.jsonl"), tokenise.conversations(codec, 60, "drop", "assistant"))
    make(Reading([chat(1)]), tokenise.conversations(codec, 61, "drop", "assistant"))
    make(Reading([chat(1)]), tokenise.conversations(codec, 60, "truncate", "assistant"))
    make(Reading([chat(1)]), tokenise.conversations(codec, 60, "drop", "all"))
    make(Reading([chat(1)]), tokenise.conversations(notes, 60, "drop", "assistant"))
    make(Reading([chat(1)]), tokenise.conversations(codec, 60, "drop", "assistant"), max_bad=1)
    assert len(names(cache)) == 8


def test_what_is_refused_leaves_no_entry(codec: Codec, cache: Cache) -> None:
    encoder = tokenise.conversations(codec, 20, "error", "assistant")
    with pytest.raises(DataError, match="2 problems") as raised:
        tokens(Reading([chat(1, "x" * 90), *map(chat, range(1_500)), chat(2, "y" * 90)]), encoder, cache)
    assert [problem.place for problem in raised.value.problems] == ["train.jsonl:1", "train.jsonl:2"]
    assert names(cache) == []


@pytest.mark.parametrize("file", ["rows.arrow", "report.json"])
def test_a_damaged_entry_is_made_again_and_said(file: str, codec: Codec, cache: Cache) -> None:
    encoder = tokenise.conversations(codec, 60, "drop", "assistant")
    whole = list(tokens(Reading([chat(1)]), encoder, cache).items)
    [key] = names(cache)
    content = (cache.folder / key / file).read_bytes()
    (cache.folder / key / file).write_bytes(content[: len(content) // 2])
    said: list[str] = []
    found = tokens(Reading([chat(1)]), encoder, cache, say=said.append)
    assert list(found.items) == whole
    assert not found.cached
    assert said[0].startswith("train.jsonl: the tokens in the cache are damaged (")
    assert tokens(Reading([chat(1)]), encoder, cache).cached
    assert names(cache) == [key]


KILLED = """
import os, signal, sys
from pathlib import Path
from posttrain.data.arrow import GROUPS, RANKINGS, Row
from posttrain.data.cache import Cache

def make(folder):
    (folder / "rows.arrow").write_bytes(b"half")
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

Cache(Path(sys.argv[1])).build("key", make)
"""


def test_a_kill_while_an_entry_is_written_leaves_none_and_the_next_build_clears_up(cache: Cache) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(cache.folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert Path(done.stdout.strip()).is_dir()
    assert cache.find("key") is None
    cache.build("key", lambda folder: None)
    assert names(cache) == ["key"]


def fill(folder: Path) -> None:
    (folder / "rows").write_bytes(bytes(100))


def test_the_least_recently_used_entries_go_first_and_none_that_is_in_use(tmp_path: Path) -> None:
    cache = Cache(tmp_path, largest=350)
    for age, key in enumerate("abc"):
        cache.build(key, fill).release()
        os.utime(tmp_path / key / "lock", (1_000 + age, 1_000 + age))
    held = cache.find("a")
    assert held is not None
    held.release()
    os.utime(tmp_path / "b" / "lock", (900, 900))
    in_use = cache.find("b")
    os.utime(tmp_path / "b" / "lock", (900, 900))
    cache.build("d", fill)
    assert names(cache) == ["a", "b", "d"]
    assert in_use is not None


def test_of_two_builders_of_one_entry_both_have_it_and_one_stays(cache: Cache) -> None:
    def slower(folder: Path) -> None:
        (folder / "rows").write_text("mine")
        cache.build("key", faster)

    def faster(folder: Path) -> None:
        (folder / "rows").write_text("theirs")

    entry = cache.build("key", slower)
    assert (entry.path / "rows").read_text() == "mine"
    assert (cache.folder / "key" / "rows").read_text() == "theirs"
    del entry
    assert names(cache) == ["key"]


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("POSTTRAIN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_home() == tmp_path / ".cache" / "posttrain"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_home() == Path("/x/posttrain")
    monkeypatch.setenv("POSTTRAIN_CACHE", "/own")
    assert cache_home() == Path("/own")
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "new"))
    assert Cache.open(silent).folder == tmp_path / "new" / "tokens"


def test_a_cache_that_cannot_be_written_is_said_and_one_for_the_process_serves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "file"))
    said: list[str] = []
    cache = Cache.open(said.append)
    assert f"cache: {tmp_path}/file/tokens cannot be used (Not a directory); tokens are kept in" in said[0]
    folder = cache.folder
    entry = cache.build("key", lambda folder: None)
    del cache
    assert entry.path.is_dir()
    del entry
    assert not folder.exists()


def test_a_disk_without_room_for_the_tokens_is_said_before_the_first_row(codec: Codec, cache: Cache) -> None:
    reading = Reading([chat(1)])
    reading.size = 10**16
    with pytest.raises(DoesNotFit, match=r"train.jsonl: its tokens need about 10,000,000\.0 GB, and .* GB are free in"):
        tokens(reading, tokenise.conversations(codec, 60, "drop", "assistant"), cache)
    assert reading.tally.rows == 0


# --- views ----------------------------------------------------------------------------------------------------------


def test_parts_joins_and_changes_of_a_store_copy_nothing_and_know_their_lengths(tmp_path: Path) -> None:
    groups = conversations(40)
    found = written(tmp_path / "rows", groups)
    part = Chosen(found, np.array([7, 3, 39]))
    both = Joined([part, found, [groups[5]]])
    named = Changed(both, lambda place, group: (place, group.id))
    expected = [groups[7], groups[3], groups[39], *groups, groups[5]]
    assert list(part) == expected[:3]
    assert list(both) == expected
    assert both[-1] == groups[5]
    assert list(both[2:5]) == expected[2:5]
    assert named[3] == (3, groups[0].id)
    assert store.lengths_of(both).tolist() == [len(group) for group in expected]
    assert store.lengths_of(Changed(part, lambda place, group: group)).tolist() == [
        len(group) for group in expected[:3]
    ]
    for view in (part, both, named):
        with pytest.raises(IndexError):
            view[len(view)]
