"""Readings to stores of tokens: chunk by chunk through the tokenizer, or from the cache where nothing has changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from pydantic import TypeAdapter

from posttrain.data.arrow import GROUPS, LABELS, RANKINGS, TARGETS, Layout, Row
from posttrain.data.cache import Cache, Entry
from posttrain.data.examples import (
    LabelledItem,
    Lost,
    Overlong,
    RankedItem,
    TargetItem,
    fitted,
    labelled_fitted,
    labelled_of,
    ranked_fitted,
    target_fitted,
)
from posttrain.data.split import hash_of, prompt_key
from posttrain.data.store import Store, StoreWriter, room_on_disk
from posttrain.errors import DoesNotFit, Problem
from posttrain.text.chat import Codec
from posttrain.text.masks import LossOn
from posttrain.types import (
    JSON,
    ChatRecord,
    Kind,
    LabelledRecord,
    PrefixGroup,
    RankedRecord,
    Record,
    TargetRecord,
    TextRecord,
)

CHUNK = 1024
"""Records that are in memory at a time."""
_FORMAT = 1
_ROWS, _REPORT = "rows.arrow", "report.json"
_LARGE = 200_000_000
_BREAKS = "answers whose tokens decode to another text"
_EXPANDED = "turns as samples of their own"

ItemT = TypeVar("ItemT")


class Tallied(Protocol):
    """What a pass over rows found, complete when it is over."""

    rows: int
    records: int
    duplicates: int
    bad: int
    problems: list[Problem]


class Readable(Protocol):
    """A source of rows, as `open_data` gives it."""

    @property
    def path(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def identity(self) -> str: ...
    @property
    def size(self) -> int | None: ...
    @property
    def tally(self) -> Tallied: ...
    def __iter__(self) -> Iterator[Record]: ...


@dataclass(frozen=True, kw_only=True)
class Encoder(Generic[ItemT]):
    """How records of some kinds become rows. `settings` are all that the rows depend on besides the records."""

    kinds: tuple[Kind, ...]
    layout: Layout[ItemT]
    encode: Callable[[Sequence[Record], Lost], Iterable[Row[ItemT]]]
    settings: Mapping[str, JSON]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of a source: what was read, what was kept of it, and what was lost on the way.

    `rows` as they stand in the file, of which `duplicates` and `bad` were left out; `kept` in the store. `shortest` are
    the tokens of the shortest row that was too long, None when none was; `bytes` of the store.
    """

    format: str
    rows: int
    duplicates: int
    bad: int
    problems: tuple[Problem, ...]
    kept: int
    losses: Mapping[str, int]
    shortest: int | None
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens(Generic[ItemT]):
    """The rows of a source as tokens. `cached`: they are those of an earlier pass, and so is the report."""

    items: Store[ItemT]
    report: Report
    cached: bool


def tokens_of(
    reading: Readable,
    encoder: Encoder[ItemT],
    cache: Cache,
    say: Callable[[str], None],
    settings: Mapping[str, JSON],
) -> Tokens[ItemT]:
    """The rows of a source, from the cache or through the tokenizer.

    `settings`: what its reading depends on besides its content. Raises DataError for what the reading or a length
    refuses, and DoesNotFit when the disk is or would be full; then nothing is kept.
    """
    key = _key(reading, encoder, settings)
    entry = cache.find(key)
    if entry is not None:
        try:
            return _load(entry, encoder, cached=True)
        except (OSError, ValueError) as reason:
            first = next(iter(str(reason).splitlines()), type(reason).__name__)
            say(f"{Path(reading.path).name}: the tokens in the cache are damaged ({first}) and made again")
            cache.discard(entry)
    _announce(reading, cache, say)
    entry = cache.build(key, lambda folder: _write(folder, reading, encoder))
    return _load(entry, encoder, cached=False)


def conversations(codec: Codec, limit: int, overlong: Overlong, loss_on: LossOn) -> Encoder[PrefixGroup]:
    """Conversations and texts as rows of at most `limit` tokens."""

    def encode(records: Sequence[Record], lost: Lost) -> Iterator[Row[PrefixGroup]]:
        broken = codec.losses.breaks
        chats = [record for record in records if isinstance(record, ChatRecord)]
        texts = [record for record in records if isinstance(record, TextRecord)]
        spans = [*codec.conversations(chats, loss_on=loss_on), *((span,) for span in codec.texts(texts))]
        lost.counts[_EXPANDED] += sum(len(row) for row in spans) - len(records)
        lost.counts[_BREAKS] += codec.losses.breaks - broken
        for record, row in zip([*chats, *texts], spans, strict=True):
            prompt = prompt_key(record)
            content = hash_of(record.text if isinstance(record, TextRecord) else record.messages)
            for span in row:
                group = fitted(PrefixGroup(id=record.id, root=span), limit, overlong, lost)
                if group is not None:
                    yield Row(group, prompt, content)

    return Encoder(
        kinds=("chat", "text"),
        layout=GROUPS,
        encode=encode,
        settings={"codec": codec.fingerprint, "limit": limit, "overlong": overlong, "loss_on": loss_on},
    )


def rankings(codec: Codec, limit: int, overlong: Overlong) -> Encoder[RankedItem]:
    """Rankings as rows whose answers have at most `limit` tokens with their prompt."""

    def encode(records: Sequence[Record], lost: Lost) -> Iterator[Row[RankedItem]]:
        broken = codec.losses.breaks
        ranked = [record for record in records if isinstance(record, RankedRecord)]
        groups = codec.rankings(ranked)
        lost.counts[_BREAKS] += codec.losses.breaks - broken
        for record, group in zip(ranked, groups, strict=True):
            item = ranked_fitted(record, group, limit, overlong, lost)
            if item is not None:
                content = (record.prompt, record.responses, record.ranks, record.annotator)
                yield Row(item, prompt_key(record), hash_of(content))

    return Encoder(
        kinds=("ranked",),
        layout=RANKINGS,
        encode=encode,
        settings={"codec": codec.fingerprint, "limit": limit, "overlong": overlong},
    )


def labels(codec: Codec, limit: int, overlong: Overlong) -> Encoder[LabelledItem]:
    """Labelled answers, and what rankings say of single answers, as rows of at most `limit` tokens an answer."""

    def encode(records: Sequence[Record], lost: Lost) -> Iterator[Row[LabelledItem]]:
        broken = codec.losses.breaks
        found = [record for record in records if isinstance(record, LabelledRecord)]
        ranked = [record for record in records if isinstance(record, RankedRecord)]
        found += [made for record in ranked if (made := labelled_of(record, lost)) is not None]
        groups = codec.rankings(found)
        lost.counts[_BREAKS] += codec.losses.breaks - broken
        for record, group in zip(found, groups, strict=True):
            item = labelled_fitted(record, group, limit, overlong, lost)
            if item is not None:
                content = (record.prompt, record.responses, record.labels, record.annotator)
                yield Row(item, prompt_key(record), hash_of(content))

    return Encoder(
        kinds=("labelled", "ranked"),
        layout=LABELS,
        encode=encode,
        settings={"codec": codec.fingerprint, "limit": limit, "overlong": overlong, "labels": True},
    )


def targets(codec: Codec, limit: int, overlong: Overlong) -> Encoder[TargetItem]:
    """Labelled texts and conversations as rows of at most `limit` tokens, as a model reads them before it answers."""

    def encode(records: Sequence[Record], lost: Lost) -> Iterator[Row[TargetItem]]:
        ours = [record for record in records if isinstance(record, TargetRecord)]
        for record, prompt in zip(ours, codec.prompts([record.asked for record in ours]), strict=True):
            item = target_fitted(record, prompt.tokens, limit, overlong, lost)
            if item is not None:
                key = prompt_key(record)
                yield Row(item, key, hash_of((record.asked.text, record.asked.messages, record.label)))

    return Encoder(
        kinds=("target",),
        layout=TARGETS,
        encode=encode,
        settings={"codec": codec.fingerprint, "limit": limit, "overlong": overlong},
    )


def _announce(reading: Readable, cache: Cache, say: Callable[[str], None]) -> None:
    """Says of a large source what will take a while. Raises DoesNotFit when there is no room for its tokens.

    Four bytes of text are about a token, which takes four; a source that is compressed may need more.
    """
    size = reading.size or 0
    free = shutil.disk_usage(cache.folder).free
    if size > free:
        raise DoesNotFit(
            f"{reading.path}: its tokens need about {size / 1e9:,.1f} GB, "
            f"and {free / 1e9:,.1f} GB are free in {cache.folder}"
            "\n  fix: free some space, or set POSTTRAIN_CACHE to a folder on another disk"
        )
    if size > _LARGE:
        say(f"{Path(reading.path).name}: {size / 1e9:,.2f} GB become tokens, which are kept in {cache.folder}")


# --- one pass -------------------------------------------------------------------------------------------------------


def _write(folder: Path, reading: Readable, encoder: Encoder[ItemT]) -> None:
    lost = Lost()
    records = iter(reading)
    with StoreWriter(folder / _ROWS, encoder.layout) as writer:
        while chunk := list(islice(records, CHUNK)):
            writer.append(encoder.encode(chunk, lost))
    lost.check()
    tally = reading.tally
    report = Report(
        format=reading.format,
        rows=tally.rows,
        duplicates=tally.duplicates,
        bad=tally.bad,
        problems=tuple(tally.problems),
        kept=writer.rows,
        # Lengths first, as they are told.
        losses=dict(sorted(lost.counts.items(), key=lambda loss: loss[0] in (_EXPANDED, _BREAKS))),
        shortest=lost.shortest,
        bytes=(folder / _ROWS).stat().st_size,
    )
    with room_on_disk(folder / _REPORT):
        (folder / _REPORT).write_text(json.dumps(asdict(report)), encoding="utf-8")


def _load(entry: Entry, encoder: Encoder[ItemT], *, cached: bool) -> Tokens[ItemT]:
    """The tokens of an entry. Raises OSError or ValueError when it is not whole."""
    report = TypeAdapter(Report).validate_json((entry.path / _REPORT).read_bytes())
    size = (entry.path / _ROWS).stat().st_size
    if size != report.bytes:
        raise ValueError(f"{_ROWS} has {size:,} bytes of {report.bytes:,}")
    items = Store(entry.path / _ROWS, encoder.layout, keep=entry)
    if len(items) != report.kept:
        raise ValueError(f"{len(items):,} rows of {report.kept:,}")
    return Tokens(items=items, report=report, cached=cached)


# --- what tokens depend on ------------------------------------------------------------------------------------------


def _key(reading: Readable, encoder: Encoder[ItemT], settings: Mapping[str, JSON]) -> str:
    parts = {
        "format": _FORMAT,
        "made by": _makers(),
        # Ids and problems name the file, so that a copy of another name has tokens of its own.
        "path": reading.path,
        "content": reading.identity,
        "kinds": encoder.kinds,
        "encoder": encoder.settings,
        "reading": settings,
    }
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=1)
def _makers() -> str:
    """What made the tokens: the code of this room and of `text`, and the libraries beneath."""
    package = Path(__file__).parent.parent
    made = sha256()
    for file in sorted([*(package / "data").glob("*.py"), *(package / "text").glob("*.py")]):
        made.update(file.read_bytes())
    for library in ("transformers", "tokenizers", "jinja2"):
        made.update(version(library).encode())
    return made.hexdigest()
