"""Records to rows of tokens: what the codec makes of each, in flat memory, and only once."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from posttrain.data import store, tokenise
from posttrain.data.cache import Cache
from posttrain.errors import DataError, DoesNotFit, Problem
from posttrain.text.chat import Codec
from posttrain.types import ChatRecord, Message, PrefixGroup, RankedRecord, Record, TextRecord

ItemT = TypeVar("ItemT")


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


def test_whatever_the_tokens_depend_on_makes_another_entry(
    codec: Codec, cache: Cache, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    monkeypatch.setattr(tokenise, "_makers", lambda: "another version")
    make(Reading([chat(1)]), tokenise.conversations(codec, 60, "drop", "assistant"))
    assert len(names(cache)) == 9


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


def test_a_disk_without_room_for_the_tokens_is_said_before_the_first_row(codec: Codec, cache: Cache) -> None:
    reading = Reading([chat(1)])
    reading.size = 10**16
    with pytest.raises(DoesNotFit, match=r"train.jsonl: its tokens need about 10,000,000\.0 GB, and .* GB are free in"):
        tokens(reading, tokenise.conversations(codec, 60, "drop", "assistant"), cache)
    assert reading.tally.rows == 0
