"""Data files of every layout and type, through all that reads them: readers, `check`, the doctor, the tokenizer."""

from __future__ import annotations

import gzip
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from posttrain.config import CheckConfig
from posttrain.console import open_console
from posttrain.data import feedback_db
from posttrain.data.cache import Cache
from posttrain.data.feedback_db import Answer, Item
from posttrain.data.readers import Reading, open_data
from posttrain.data.tokenise import conversations, labels, rankings, targets, tokens_of
from posttrain.recipes.check import check
from posttrain.run import content_hash
from posttrain.text.chat import Codec
from posttrain.text.doctor import diagnose
from posttrain.types import Kind as RecordKind
from posttrain.types import Message, PromptRecord

from .doors import Kind, Told, law
from .mutators import Files
from .plain_changes import parsed
from .small_model import model_folder

TALK = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
LAYOUTS: Mapping[str, Mapping[str, Any]] = {
    "messages": {"messages": [{"role": "system", "content": "Add."}, *TALK]},
    "train": {"messages": [*TALK, TALK[0], {"role": "assistant", "content": "3", "train": False}]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "2+2?"}]}, TALK[1]]},
    "sharegpt": {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}], "system": "+"},
    "alpaca": {"instruction": "Add.", "input": "2+2", "output": "4", "history": [["1+1", "2"]]},
    "alpaca_response": {"instruction": "Add.", "input": "2+2", "response": "4"},
    "instances": {"instruction": "Add.", "instances": [{"input": "2+2", "output": "4"}, {"input": "1", "output": "1"}]},
    "completion": {"prompt": "2+2?", "completion": "4"},
    "response": {"id": "a", "prompt": "2+2?", "response": "4"},
    "talk": {"prompt": [TALK[0]], "completion": [TALK[1]]},
    "question": {"question": "2+2?", "answer": "4"},
    "text": {"text": "Two and two is four."},
    "pair": {"prompt": "2+2?", "chosen": "4", "rejected": "5", "margin": 0.5, "weight": 2, "annotator": "ann"},
    "pair_talk": {"chosen": TALK, "rejected": [TALK[0], {"role": "assistant", "content": "5"}]},
    "pair_hh": {"chosen": "\n\nHuman: 2+2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2+2?\n\nAssistant: 5"},
    "pair_gpt": {
        "conversations": [{"from": "human", "value": "2+2?"}],
        "chosen": {"from": "gpt", "value": "4"},
        "rejected": {"from": "gpt", "value": "5"},
    },
    "ranks": {"prompt": "2+2?", "responses": ["5", "4", "3"], "ranks": [2, 1, None], "stopped": [True, False, True]},
    "order": {"prompt": "2+2?", "responses": ["5", "4", "3"], "order": [1, [0, 2]]},
    "scores": {"prompt": "2+2?", "responses": ["5", "4", "3"], "scores": [0.1, 0.9, None]},
    "rated": {
        "instruction": "2+2?",
        "completions": [{"response": "4", "overall_score": 9}, {"response": "5", "overall_score": 2}],
    },
    "label": {"prompt": "2+2?", "completion": "4", "label": True, "stopped": True, "weight": 1.5},
    "feedback": {"prompt": "2+2?", "response": "5", "feedback": "thumbs_down"},
    "liked": {"messages": TALK, "liked": True},
    "kto_tag": {"instruction": "Add.", "input": "2+2", "output": "4", "kto_tag": False},
    "class": {"text": "Fresh bread.", "label": "good"},
    "sentence": {"sentence": "Fresh bread.", "label": 1, "idx": 0},
    "sentences": {"sentence1": "It rains.", "sentence2": "It is raining.", "label": 4.8},
    "premise": {"premise": "It rains.", "hypothesis": "It is wet.", "label": 0},
    "prompt_class": {"prompt": "2+2?", "label": "sums"},
    "solutions": {
        "question": "2+2?",
        "first": {"solution": "4", "is_correct": True},
        "second": {"solution": "5", "is_correct": False},
    },
    "prompt": {"prompt": "2+2?", "level": 1, "tags": ["a"]},
    "hh_prompt": {"prompt": "\n\nHuman: 2+2?\n\nAssistant:"},
    "other": {"query": "2+2?", "reply": "4"},
    "ranking": {"prompt": "2+2?", "responses": ["5", "4"], "ranking": [1, 2]},
}  # fmt: skip
# What the commands ask for: sft, reward and dpo, dpo with kto, classify, ppo, eval.
ASKED: Sequence[tuple[RecordKind, ...]] = (
    ("chat", "text"),
    ("ranked",),
    ("labelled", "ranked"),
    ("target",),
    ("prompt",),
    ("target", "prompt"),
)


def rows_of(layout: str, count: int = 3) -> list[dict[str, Any]]:
    """Some rows of a layout, no two alike."""
    text = json.dumps(LAYOUTS[layout], ensure_ascii=False)
    return [
        json.loads(text.replace("2+2", f"{number}+2 é").replace("Fresh", f"Fresh {number}")) for number in range(count)
    ]


def json_lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A row a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@cache
def seeds() -> Sequence[Files]:
    """A file of every layout as lines of JSON, and of every type."""
    found: list[Files] = [{f"{name}.jsonl": json_lines(rows_of(name))} for name in LAYOUTS]
    chat, pair = rows_of("response"), rows_of("pair")
    found += [{"array.json": json.dumps(rows_of(name), indent=1).encode()} for name in ("messages", "ranks", "class")]
    found += [{"object.json": json.dumps({"version": 1, name: chat}).encode()} for name in ("data", "train")]
    found += [{"single.json": json.dumps(chat[0]).encode()}, {"lines.json": json_lines(chat)}]
    found += [{"table.csv": _table(rows, ",")} for rows in (chat, pair, rows_of("class"), rows_of("sentences"))]
    found += [{"table.tsv": _table(rows, "\t")} for rows in (chat, rows_of("class"))]
    lines = b'Fresh bread.\t1\nStale bread.\t0\nOld "bread\t1\n'
    found += [
        {"labelled.tsv": lines},
        {"labelled.txt": lines},
        {"running.txt": b"One text.\n\nAnother\none.\n\n\nThird.\n"},
    ]
    found += [{"table.parquet": data} for data in _parquets()]
    found += [{"table.arrow": _arrow(chat)}]
    whole = {name: data for files in found for name, data in files.items()}
    for name in (
        "messages.jsonl",
        "pair.jsonl",
        "array.json",
        "table.csv",
        "labelled.txt",
        "running.txt",
        "table.parquet",
    ):
        found.append({f"{name}.gz": gzip.compress(whole[name], mtime=0)})
    found += [{"store.db": store()}] * 3
    found += [{"a.jsonl": json_lines(chat), "b/c.csv": _table(chat, ","), "notes.md": b"# notes\n"}]
    found += [{"state.json": b"{}", "dataset_info.json": b"{}", "data.arrow": _arrow(chat)}]
    return found


def _table(rows: Sequence[Mapping[str, Any]], mark: str) -> bytes:
    made = io.BytesIO()
    options = pyarrow.csv.WriteOptions(delimiter=mark)
    pyarrow.csv.write_csv(pa.Table.from_pylist([dict(row) for row in rows]), made, options)
    return made.getvalue()


def _parquets() -> list[bytes]:
    """Rows of plain columns, and of every type that a table may have."""
    odd = {
        "prompt": "a", "response": "b", "day": date(2024, 1, 2), "time": datetime(2024, 1, 2), "cost": Decimal("1.5"),
        "raw": b"\xff", "list": [1, 2], "nested": [{"a": None}], "pairs": {"x": 1.5}, "none": None, "big": 2**62,
    }  # fmt: skip
    tables = [rows_of("messages"), rows_of("pair"), rows_of("scores"), [odd] * 2]
    return [_parquet(pa.Table.from_pylist(rows)) for rows in tables]


def _parquet(table: Any) -> bytes:
    made = io.BytesIO()
    pq.write_table(table, made)
    return made.getvalue()


def _arrow(rows: Sequence[Mapping[str, Any]]) -> bytes:
    made, table = io.BytesIO(), pa.Table.from_pylist([dict(row) for row in rows])
    with pa.ipc.new_file(made, table.schema) as out:
        out.write_table(table)
    return made.getvalue()


def store() -> bytes:
    """A ranking store with two items, two people, an undo, and an item for checking."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.db"
        with closing(feedback_db.create(path)) as connection:
            asked = [Message(role="user", content="2+2?")]
            answers = [Answer(text="4", stopped=True), Answer(text="5", stopped=False), Answer(text="3", stopped=True)]
            items = [Item(id=name, prompt=asked, responses=answers, audit=name == "c") for name in "abc"]
            feedback_db.add_items(connection, items)
            said = [
                (item, who, "rank", '{"ranks": [1, 2, null]}')
                for item, who in zip("aabc", ("ann", "bob", "ann", "ann"), strict=True)
            ]
            said.append(("b", "ann", "undo", '{"event": 3}'))
            # The times are told, so that the bytes are the same each time.
            connection.execute("UPDATE items SET created = '2026-01-01T00:00:00.000Z'")
            add = "INSERT INTO events (time, item, annotator, kind, payload) VALUES ('2026-01-01T00:00', ?, ?, ?, ?)"
            connection.executemany(add, said)
            connection.commit()
            connection.execute("PRAGMA journal_mode = DELETE")
        return path.read_bytes()


# --- the door -------------------------------------------------------------------------------------------------------


def door(folder: Path, told: Told) -> bool:
    """A file, or the folder of several, read as every command reads it; what is read is counted, whatever it is."""
    inside = list(folder.iterdir())
    path = inside[0] if len(inside) == 1 else folder
    told.names = (*told.names, folder.name)
    checked = told.attempt(lambda: check(CheckConfig(data=str(path), rows=4), console=open_console(quiet=True)))
    if checked is not None:
        for file in checked.files:
            law(file.rows == file.ok + file.bad + file.duplicates, "the rows do not add up")
    if path.is_file():
        content_hash(path)
    used = False
    for kinds in ASKED:
        reading = told.attempt(lambda kinds=kinds: open_data(path, kinds, max_bad=1.0))
        if reading is not None and _read(reading, told):
            used = True
            _tokens(reading, words(), told)
            told.attempt(lambda kinds=kinds: list(open_data(path, kinds)))
    return used


def _read(reading: Reading, told: Told) -> bool:
    """Whether there are records; they are read twice, counted both times alike, and looked at by the doctor."""
    records = told.attempt(lambda: list(reading))
    tally = reading.tally
    law(tally.bad == len(tally.problems), f"{tally.bad} bad rows, {len(tally.problems)} problems")
    law(
        all(problem.place and problem.what and problem.fix for problem in tally.problems),
        "a problem without place or fix",
    )
    if records is None:
        return False
    law(tally.records == len(records), f"{len(records)} records, {tally.records} counted")
    good = tally.rows - tally.bad - tally.duplicates
    law(0 < good <= len(records), f"{len(records)} records of {good} good rows")
    lines = _lines_in(Path(reading.path))
    law(lines is None or lines == tally.rows, f"{tally.rows} rows are counted of {lines} lines")
    counts = (tally.rows, tally.records, tally.bad, tally.duplicates)
    law(records == list(reading), "a second pass reads something else")
    tally = reading.tally
    law(counts == (tally.rows, tally.records, tally.bad, tally.duplicates), "a second pass counts otherwise")
    told.attempt(lambda: diagnose(words(), records, loss_on="assistant"))
    return True


def _lines_in(path: Path) -> int | None:
    """The lines of a file with a row on each, blank ones left out; None for other files."""
    data = path.read_bytes() if path.suffix == ".jsonl" else b"["
    marked = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    if marked[:1] == b"[" or data[:2] == b"\x1f\x8b" or parsed(marked) is not None:
        return None
    return sum(line.decode("utf-8-sig", "replace").strip() != "" for line in data.split(b"\n"))


def _tokens(reading: Reading, codec: Codec, told: Told) -> None:
    """The records as tokens, and back from the disk."""
    if reading.kind == "prompt":
        prompts = told.attempt(lambda: [record for record in reading if isinstance(record, PromptRecord)])
        told.attempt(lambda: codec.prompts(prompts or []))
        return
    makers: Mapping[RecordKind, Any] = {
        "ranked": lambda: rankings(codec, 200, "drop"),
        "labelled": lambda: labels(codec, 200, "truncate"),
        "target": lambda: targets(codec, 200, "drop"),
    }
    make = makers.get(reading.kind, lambda: conversations(codec, 200, "drop", "assistant"))
    with tempfile.TemporaryDirectory() as aside:
        found = told.attempt(lambda: tokens_of(reading, make(), Cache(Path(aside)), lambda line: None, {}))
        if found is not None:
            law(
                len([found.items[place] for place in range(len(found.items))]) == found.report.kept,
                "rows were lost on disk",
            )
            found.items.lengths.sum()


@cache
def words() -> Codec:
    """The tokenizer of a small model."""
    return Codec.load(str(model_folder()))


DATA = Kind(name="data", seeds=seeds, door=door, share=4.0)
