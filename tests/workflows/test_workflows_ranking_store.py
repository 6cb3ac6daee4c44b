"""`rank stats`, `export`, `import` and `link` on the command line: what they say, write and refuse."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from rankings_at_hand import People, item, store

from posttrain.cli import main
from posttrain.data import feedback_db
from posttrain.data.feedback_db import Event, EventKind
from posttrain.feedback import people
from posttrain.feedback.assigning import Rules
from posttrain.records import JSON

FIRST = Path(__file__).parent.parent / "data" / "feedback_version_1.db"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with `feedback.db`: twenty items of which two people ranked each, one of them the other way."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    path = store(tmp_path / "feedback.db", *(item(f"i{n:02}", "one", "two", "three") for n in range(20)))
    with closing(People(path, Rules(overlap=1.0, repeat=0.0))) as at_work:
        for who in ("ann", "ben"):
            while (name := at_work.next(who)) is not None:
                ranks = [3, 2, 1] if (who, name) == ("ben", "i07") else [1, 2, 2]
                at_work.rank(who, name, ranks, seconds=3.0 if who == "ann" else 5.0)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["rank", *words]) == code
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


def test_stats_tell_progress_agreement_people_and_disputes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, "stats", "feedback.db")
    assert shown.startswith("20 of 20 items ranked, 40 rankings; second rankings 0 of 0; 0 audit items\n")
    for line in ("pairs on which two people agree", "Krippendorff's alpha", "better answer shown first"):
        assert line in shown
    assert [line.split()[:2] for line in shown.splitlines() if line.startswith(("ann ", "ben "))] == [
        ["ann", "20"],
        ["ben", "20"],
    ]
    assert "i07" in shown
    assert "Say i07." in shown


def test_stats_as_json_are_those_of_the_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(said(capsys, "stats", "feedback.db", "--json"))
    # 19 prompts of 2 strict pairs and a tie each, all alike; of i07 two opposed pairs and a tie against an order
    assert found["agreement"]["value"] == pytest.approx((38 + 0.5) / 41)
    assert found["progress"]["rankings"] == 40
    assert [row["id"] for row in found["disputed"]] == ["i07"]
    assert [row["median_seconds"] for row in found["annotators"]] == [3.0, 5.0]


def test_export_says_the_exact_rows_and_writes_over_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, "export", "feedback.db", "--out", "rankings.jsonl")
    train, held = (folder / name for name in ("rankings.jsonl", "rankings.held_out.jsonl"))
    counts = [len(file.read_text(encoding="utf-8").splitlines()) for file in (train, held)]
    assert sum(counts) == 40
    pairs = [2 * count for count in counts]
    pairs[0 if "i07/ben" in train.read_text() else 1] += 1
    assert shown == (
        f"20 prompts → 81 pairs, 39 ties, split {pairs[0]}/{pairs[1]} by prompt\n"
        f"  rankings.jsonl  {counts[0]} rows\n  rankings.held_out.jsonl  {counts[1]} rows\n"
    )
    refused = said(capsys, "export", "feedback.db", "--out", "rankings.jsonl", code=2)
    assert refused == "error: rankings.jsonl exists\n  fix: give another --out, or --fresh to write over it\n"
    said(capsys, "export", "feedback.db", "--out", "rankings.jsonl", "--fresh", "--held-out", "0%", "--pairs")
    assert not held.exists()
    assert len(train.read_text(encoding="utf-8").splitlines()) == 81


def test_notes_and_flags_are_shown_and_exported_until_they_are_taken_back(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def say(kind: EventKind, **payload: JSON) -> int:
        with closing(feedback_db.connect(folder / "feedback.db")) as connection:
            return feedback_db.append(connection, Event(item="i03", annotator="ann", kind=kind, payload=payload))

    say("note", text="both are close")
    say("flag", flags=["wrong", "broken"], answer=2)
    say("undo", event=say("note", text="a slip of the pen"))
    shown = said(capsys, "stats", "feedback.db")
    lines = shown[shown.index("newest notes and flags") :].splitlines()
    assert [line.split() for line in lines if line.startswith("i03")] == [
        ["i03", "ann", "both", "are", "close"],
        ["i03", "ann", "3", "wrong,", "broken"],
    ]
    said(capsys, "export", "feedback.db", "--out", "all.jsonl", "--held-out", "0%")
    rows = {row["id"]: row for row in map(json.loads, (folder / "all.jsonl").read_text().splitlines())}
    assert rows["i03/ann"]["notes"] == ["both are close"]
    assert rows["i03/ann"]["flags"] == [{"answer": 2, "flags": ["wrong", "broken"]}]
    assert "notes" not in rows["i03/ben"]
    assert "40 rankings by 2 annotators" in said(capsys, "import", "all.jsonl", "--db", "other.db")


def test_stats_of_an_old_store_leave_it_as_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(FIRST, folder / "old.db")
    before = feedback_db.version_of(folder / "old.db")
    assert " ranked, " in said(capsys, "stats", "old.db")
    assert before == feedback_db.version_of(folder / "old.db") == 1


def test_a_share_that_is_none_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused = said(capsys, "export", "feedback.db", "--held-out", "0.1", code=2)
    assert refused == "error: --held-out  expected a share such as 10%, got '0.1'\n"


def test_import_makes_a_store_and_says_what_was_new(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "export", "feedback.db", "--out", "all.jsonl", "--held-out", "0%")
    shown = said(capsys, "import", "all.jsonl", "--db", "new.db")
    assert "all.jsonl: 40 rows, ranked (responses, ranks) → ranked\n" in shown
    assert "40 rankings by 2 annotators, 20 items new\n" in shown
    shown = said(capsys, "import", "all.jsonl", "--db", "new.db")
    assert "40 rankings left as they were: the store has them already\n" in shown
    assert len(list(feedback_db.rankings(folder / "new.db"))) == 40


def test_a_file_that_ranks_nothing_makes_no_store(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "pool.jsonl").write_text('{"prompt": "p", "responses": ["a", "b"]}\n')
    assert "this looks like pool data" in said(capsys, "import", "pool.jsonl", "--db", "new.db", code=2)
    assert not (folder / "new.db").exists()


def test_a_link_is_shown_once_and_kept_as_a_hash(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, "link", "feedback.db", "cy", "--at", "http://10.0.0.5:8712/")
    link = shown.split("/a/")[1].split()[0]
    assert shown.startswith(f"cy ranks at http://10.0.0.5:8712/a/{link}\n")
    with closing(feedback_db.connect(folder / "feedback.db")) as connection:
        [kept] = connection.execute("SELECT link FROM annotators WHERE name = 'cy'").fetchone()
        assert kept == people.hash_of_secret(link)
        session = people.enter_by_link(connection, link)
        assert people.annotator_of(connection, session) == ("cy", True)
        assert link not in "\n".join(connection.iterdump())
    again = json.loads(said(capsys, "link", "feedback.db", "cy", "--json"))
    assert again["name"] == "cy"
    assert again["link"] != link


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("stats",), "error: DB  needs a value\n"),
        (("stats", "gone.db"), "error: gone.db  there is no such file\n  fix: check the path\n"),
        (("link", "feedback.db", "  "), "error: NAME  give a name\n"),
        (("stats", "feedback.db", "--pairs"), "error: --pairs  unknown flag\n"),
        (("export", "feedback.db", "--pair"), "error: --pair  unknown flag; did you mean --pairs?\n"),
    ],
)
def test_what_is_typed_wrong_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    assert said(capsys, *words, code=2) == says


def test_people_rank_without_the_tensor_library() -> None:
    # the cause of a server that starts in a second and takes little memory
    code = (
        "import sys, posttrain.workflows.ranking, posttrain.workflows.ranking_store;"
        "print(*sorted({'torch', 'transformers', 'peft', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "\n"
