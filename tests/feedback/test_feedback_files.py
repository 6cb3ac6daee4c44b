"""Files into a store and out of it: pools, exports whose rows are the very ones, and rankings that come back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from rankings_at_hand import People, item, store

from posttrain.data import feedback_db
from posttrain.data.readers import read
from posttrain.errors import DataError
from posttrain.feedback.assigning import Rules
from posttrain.feedback.exporting import export
from posttrain.feedback.importing import import_rankings
from posttrain.feedback.pool import item_id, pool_of
from posttrain.records import Message, RankedRecord


def written(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- pools ------------------------------------------------------------------------------------------------------


def test_what_sample_writes_becomes_items(tmp_path: Path) -> None:
    row = {
        "id": "p1",
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
        "responses": ["Hello.", "", "Hello."],
        "stopped": [True, True, False],
        "topic": "greeting",
    }
    pool = pool_of(read(written(tmp_path / "pool.jsonl", [row]), "pool").records, seed=0, audit=0.0)
    [made] = pool.items
    assert [(message.role, message.content) for message in made.prompt] == [("system", "Be kind."), ("user", "Hi")]
    assert [(answer.text, answer.stopped) for answer in made.responses] == [("Hello.", True), ("", True)]
    assert (pool.repeated, pool.alone) == (1, 0)
    assert len(made.id) == 20


def test_prompts_with_one_answer_left_are_no_items(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "responses": ["x", "x"]}, {"prompt": "b", "responses": ["x", "y", "y"]}]
    pool = pool_of(read(written(tmp_path / "pool.jsonl", rows), "pool").records, seed=0, audit=0.0)
    assert (len(pool.items), pool.repeated, pool.alone) == (1, 2, 1)


@pytest.mark.parametrize(
    ("row", "texts"),
    [
        ({"prompt": "p", "responses": ["a", "b", "c"]}, ["a", "b", "c"]),
        ({"prompt": "p", "responses": ["a", "b"], "ranks": [2, 1]}, ["a", "b"]),
        ({"prompt": "p", "responses": ["a", "b"], "scores": [0.5, 1.5]}, ["a", "b"]),
        ({"prompt": "p", "responses": ["a", "b"], "order": [1, 0]}, ["a", "b"]),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, ["a", "b"]),
        ({"chosen": "\n\nHuman: p\n\nAssistant: a", "rejected": "\n\nHuman: p\n\nAssistant: b"}, ["a", "b"]),
        ({"instruction": "p", "completions": [{"response": "a"}, {"response": "b"}]}, ["a", "b"]),
        (
            {"question": "p", "x": {"solution": "a", "is_correct": True}, "y": {"solution": "b", "is_correct": False}},
            ["a", "b"],
        ),
    ],
)
def test_every_layout_of_rankings_is_a_pool_whose_ranks_are_left_aside(
    row: dict[str, Any], texts: list[str], tmp_path: Path
) -> None:
    [record] = read(written(tmp_path / "rows.jsonl", [row]), "pool").records
    assert isinstance(record, RankedRecord)
    assert (list(record.responses), record.ranks) == (texts, (None,) * len(texts))
    [made] = pool_of([record], seed=0, audit=0.0).items
    assert made.id == item_id((Message(role="user", content="p"),), made.responses)


def test_bad_rows_of_a_pool_are_told_by_their_line(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"p{n}", "responses": ["a", "b"]} for n in range(4)]
    rows += [{"prompt": "one", "responses": ["a"]}, {"prompt": "ten", "responses": list("abcdefghij")}]
    found = read(written(tmp_path / "pool.jsonl", rows), "pool", max_bad=0.5)
    said = [str(problem).replace(f"{tmp_path}/", "") for problem in found.problems]
    assert said == [
        "pool.jsonl:5  responses has 1, expected at least 2\n  fix: give more answers, or delete the row",
        "pool.jsonl:6  10 answers, and at most 9 can be ranked at once\n  fix: give fewer, or write several rows",
    ]
    with pytest.raises(
        DataError, match="this looks like pool data \\(responses\\), expected ranked data\n  fix: rank takes"
    ):
        read(tmp_path / "pool.jsonl", "ranked")


def test_audit_items_are_a_share_of_the_prompts_and_all_of_a_prompt() -> None:
    def record(n: int, answer: str) -> RankedRecord:
        asked = (Message(role="user", content=f"p{n}"),)
        return RankedRecord(id="", prompt=asked, responses=(answer, "b"), ranks=(None, None))

    first, second = ([record(n, text) for n in range(1000)] for text in ("a", "c"))
    audits = [made.audit for made in pool_of(first, seed=0, audit=0.1).items]
    assert 70 < sum(audits) < 130
    assert [made.audit for made in pool_of(second, seed=0, audit=0.1).items] == audits
    assert [made.audit for made in pool_of(first, seed=1, audit=0.1).items] != audits


def test_an_item_has_one_name_wherever_it_comes_from_and_other_words_another() -> None:
    def named(*texts: str, prompt: str = "p") -> str:
        record = RankedRecord(
            id="x", prompt=(Message(role="user", content=prompt),), responses=texts, ranks=(None,) * len(texts)
        )
        return pool_of([record], seed=0, audit=0.0).items[0].id

    assert named("a", "b") == named("a", "b")
    assert len({named("a", "b"), named("b", "a"), named("a", "c"), named("a", "b", prompt="q"), named("ab", "")}) == 5


# --- export and import ------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Thirty prompts of three answers, three of them audit items: half ranked in full, the others with a tie."""
    items = [item(f"i{n:02}", "one", "two", "three", audit=n >= 27) for n in range(30)]
    path = store(tmp_path / "feedback.db", *items)
    with closing(People(path)) as people:
        turn = 0
        while (name := people.next("ann")) is not None:
            people.rank("ann", name, [1, 2, 3] if int(name[1:]) % 2 else [2, 1, 1])
            turn += 1
    return path


def test_an_export_shows_the_very_rows(path: Path, tmp_path: Path) -> None:
    found = export(path, tmp_path / "out" / "rankings.jsonl", pairs=False, share=0.0)
    rows = rows_of(found.train.out)
    assert len(rows) == 27
    by_id = {row["id"]: row for row in rows}
    assert by_id["i01/ann"] == {
        "id": "i01/ann",
        "prompt": [{"role": "user", "content": "Say i01."}],
        "annotator": "ann",
        "responses": ["one", "two", "three"],
        "ranks": [1, 2, 3],
        "stopped": [True, True, True],
    }
    # 13 odd items: 3 pairs; 14 even ones: 2 pairs and a tie
    assert (found.train.pairs, found.train.ties, found.train.prompts) == (13 * 3 + 14 * 2, 14, 27)
    assert next(found.lines()) == "27 prompts → 67 pairs, 14 ties"
    assert found.audit is not None
    assert found.audit.out == tmp_path / "out" / "rankings.audit.jsonl"
    assert {row["id"] for row in rows_of(found.audit.out)} == {"i27/ann", "i28/ann", "i29/ann"}
    assert found.held_out is None


def test_an_export_as_pairs_has_a_row_for_each_strict_pair_and_splits_by_prompt(path: Path, tmp_path: Path) -> None:
    found = export(path, tmp_path / "pairs.jsonl", pairs=True, share=0.3)
    assert found.held_out is not None
    train, held = rows_of(found.train.out), rows_of(found.held_out.out)
    assert (len(train), len(held)) == (found.train.pairs, found.held_out.pairs)
    assert len(train) + len(held) == 67
    prompts = [{row["prompt"][0]["content"] for row in rows} for rows in (train, held)]
    assert not prompts[0] & prompts[1]
    assert 3 <= len(prompts[1]) <= 13
    first = next(row for row in train + held if row["id"].startswith("i00"))
    assert (first["chosen"], first["rejected"], first["stopped"]) == ("two", "one", [True, True])
    assert f"split {len(train)}/{len(held)} by prompt" in next(found.lines())
    assert len(read(found.train.out, "ranked").records) == len(train)


def test_all_rankings_of_a_prompt_are_on_one_side(tmp_path: Path) -> None:
    path = store(tmp_path / "feedback.db", *(item(f"i{n:02}") for n in range(40)))
    with closing(People(path, Rules(overlap=1.0, repeat=0.0))) as people:
        for who in ("ann", "ben"):
            while (name := people.next(who)) is not None:
                people.rank(who, name, [1, 2])
    found = export(path, tmp_path / "rankings.jsonl", pairs=False, share=0.5)
    assert found.held_out is not None
    sides = [[row["prompt"][0]["content"] for row in rows_of(part.out)] for part in (found.train, found.held_out)]
    assert all(side.count(prompt) == 2 for side in sides for prompt in side)
    assert 20 < len(sides[0]) < 60


def test_a_pair_with_an_empty_answer_is_told_and_left_out(tmp_path: Path) -> None:
    path = store(tmp_path / "feedback.db", item("a", "one", "", "two"))
    with closing(People(path)) as people:
        people.next("ann")
        people.rank("ann", "a", [1, 3, 2])
    found = export(path, tmp_path / "pairs.jsonl", pairs=True, share=0.0)
    assert [(row["chosen"], row["rejected"]) for row in rows_of(found.train.out)] == [("one", "two")]
    assert [problem.what for problem in found.bad] == ["an answer is empty, which no file of pairs may hold"] * 2
    assert len(rows_of(export(path, tmp_path / "all.jsonl", pairs=False, share=0.0).train.out)) == 1


def test_a_store_without_rankings_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no rankings yet of its 1 items"):
        export(store(tmp_path / "feedback.db", item("a")), tmp_path / "out.jsonl", pairs=False, share=0.0)
    assert not (tmp_path / "out.jsonl").exists()


def test_what_is_exported_and_imported_elsewhere_is_the_same(path: Path, tmp_path: Path) -> None:
    out = export(path, tmp_path / "rankings.jsonl", pairs=False, share=0.0).train.out
    with closing(feedback_db.create(tmp_path / "other.db")) as connection:
        found = import_rankings(connection, read(out, "ranked").records, annotator="nobody", seed=0)
        assert (found.items, found.rankings, found.known, found.annotators) == (27, 27, 0, 1)
        again = import_rankings(connection, read(out, "ranked").records, annotator="nobody", seed=0)
        assert (again.items, again.rankings, again.known) == (0, 0, 27)
    once = export(tmp_path / "other.db", tmp_path / "again.jsonl", pairs=False, share=0.0).train.out

    def said(file: Path) -> list[tuple[Any, ...]]:
        rows = rows_of(file)
        return sorted((row["prompt"][0]["content"], row["responses"], row["ranks"], row["annotator"]) for row in rows)

    assert said(once) == said(out)


def test_rankings_that_name_nobody_get_a_name_and_what_is_lost_is_told(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 2.0},
        {"prompt": "q", "chosen": "a", "rejected": "b", "annotator": "ann"},
    ]
    path = tmp_path / "feedback.db"
    with closing(feedback_db.create(path)) as connection:
        records = read(written(tmp_path / "pairs.jsonl", rows), "ranked").records
        found = import_rankings(connection, records, annotator="crowd", seed=0)
    assert found.lines() == [
        "2 rankings by 2 annotators, 2 items new",
        "1 ranking had a weight or a margin, which a store does not keep",
    ]
    assert [row["annotator"] for _, row in feedback_db.rankings(path) if isinstance(row, dict)] == ["crowd", "ann"]


def test_imported_rankings_take_the_place_of_people_who_would_rank_them(path: Path, tmp_path: Path) -> None:
    out = export(path, tmp_path / "rankings.jsonl", pairs=False, share=0.0).train.out
    other = tmp_path / "other.db"
    with closing(feedback_db.create(other)) as connection:
        import_rankings(connection, read(out, "ranked").records, annotator="nobody", seed=0)
    with closing(People(other)) as people:
        assert people.next("ben") is None
        assert people.shown("ben")["progress"]["done"] == 27


def test_what_is_imported_of_an_audit_prompt_is_not_trained_on_and_is_told(tmp_path: Path) -> None:
    asked = (Message(role="user", content="p"),)
    records = [RankedRecord(id="", prompt=asked, responses=("x", "y"), ranks=(1, 2))]
    chosen, path = tmp_path / "chosen.db", store(tmp_path / "there.db", item("a", audit=True, prompt="p"))
    with closing(feedback_db.create(chosen)) as connection:
        found = import_rankings(connection, records, annotator="ann", seed=0, audit=1.0)
    with closing(feedback_db.connect(path)) as connection:
        there = import_rankings(connection, records, annotator="ann", seed=0)
    for store_of, told in ((chosen, found), (path, there)):
        assert told.lines()[-1] == "1 ranking of audit prompts: they check people, nothing trains on them"
        with pytest.raises(DataError, match=r"no rankings yet|nothing to rank"):
            list(feedback_db.rankings(store_of))
        assert len(list(feedback_db.rankings(store_of, audit=True))) == 1
