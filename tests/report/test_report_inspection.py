"""What a page carries of the rollouts that a run kept: which ones, exactly as they are stored, no more than fits."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from inspected_at_hand import PIECES, pairs_file, ppo_file, rankings_file, run_at_hand, without_heading

from posttrain.report import inspection as of_pages
from posttrain.report.html import data_block
from posttrain.report.inspected import Brief
from posttrain.report.inspection import MOST_ROLLOUTS, files_of, inspection, picked
from posttrain.report.parts import Inspector, Prose, Warned
from posttrain.report.reading import read
from posttrain.report.sections.inspector import followed, inspector
from posttrain.run.inspect import heading_of, lists, table_of, write


def payload(run: Path) -> dict[str, Any]:
    found = read(run)
    return cast("dict[str, Any]", orjson.loads(orjson.dumps(inspection(files_of(found)[0], found))))


def unpacked(array: Sequence[str]) -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(array[1]), dtype=array[0])


def briefs(scores: Sequence[float | None]) -> list[Brief]:
    return [
        Brief(first=row, count=1, prompt_id=f"p{row}", score=score, length=1, group=(row, row + 1), alternatives=True)
        for row, score in enumerate(scores)
    ]


def test_first_last_best_worst_and_random_ones_are_picked_and_say_so() -> None:
    found = {pick.place: pick.why for pick in picked(briefs([3.0, 1.0, None, 9.0, 5.0, 4.0, 2.0, 8.0, 7.0, 6.0]), 5)}
    assert found[0] == ("first",)
    assert found[9] == ("last",)
    assert found[3] == ("best",)
    assert found[1] == ("worst",)
    assert sorted(why for pick in found.values() for why in pick) == ["best", "first", "last", "random", "worst"]
    assert picked(briefs([1.0] * 50), 9) == picked(briefs([1.0] * 50), 9)


def test_one_that_is_several_of_these_is_picked_once() -> None:
    [only] = picked(briefs([1.0]), 64)
    assert only.why == ("best", "worst", "first", "last")
    assert [pick.place for pick in picked(briefs([None, None]), 64)] == [0, 1]


def test_every_number_of_a_carried_rollout_is_that_of_the_file_bit_for_bit(tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "ppo")
    table = pq.ParquetFile(ppo_file(run, 2, [5, 9, 1, 30])).read()
    [step] = payload(run)["steps"]
    assert step["settings"]["gamma"] == 0.99
    for rollout, row in zip(step["rollouts"], table.to_pylist(), strict=True):
        [answer] = rollout["answers"]
        assert unpacked(rollout["prompt"]).tolist() == row["prompt_tokens"]
        assert unpacked(answer["tokens"]).tolist() == row["tokens"]
        for name, array in answer["columns"].items():
            expected = np.array(row[name], dtype=np.uint8 if name == "clipped" else np.float32)
            assert unpacked(array).tobytes() == expected.tobytes(), name
            assert array[0] == ("uint8" if name == "clipped" else "float32")
        for name in ("score", "settled_score"):
            assert unpacked(answer["numbers"][name]).tolist() == [row[name]]
        for model in ("actor", "reference"):
            top = answer["tops"][model]
            assert top["each"] == 5
            assert unpacked(top["tokens"]).tolist() == [token for five in row[f"{model}_top"] for token in five]
            of = [value for five in row[f"{model}_top_logprobs"] for value in five]
            assert unpacked(top["logprobs"]).tobytes() == np.array(of, np.float32).tobytes()


def test_the_texts_of_all_shown_tokens_are_there_and_of_no_others(tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "dpo")
    pairs_file(run, 1, [2, 1], reference=False)
    found = payload(run)
    [rollout] = found["steps"][0]["rollouts"]
    needed = {*unpacked(rollout["prompt"]).tolist()}
    for answer in rollout["answers"]:
        needed |= {*unpacked(answer["tokens"]).tolist(), *unpacked(answer["tops"]["actor"]["tokens"]).tolist()}
    assert found["pieces"] == {str(token): PIECES[token] for token in needed}
    assert [quantity["key"] for quantity in found["quantities"]] == ["policy"]
    assert found["shown_first"] == "policy"


@pytest.mark.parametrize("baseline", ["critic", "rloo"])
def test_a_round_that_went_wrong_is_carried_and_leaves_the_page_whole(tmp_path: Path, baseline: str) -> None:
    run = run_at_hand(tmp_path / "run", "ppo")
    file = ppo_file(run, 1, [4, 3], group=2, baseline=baseline)
    heading, table = heading_of(file), pq.ParquetFile(file).read()
    assert heading is not None
    columns = {name: table.column(name) for name in table.column_names}
    columns["rewards"] = lists(np.full(7, np.nan, np.float32), [4, 3])
    columns["settled_score"] = pa.array([float("nan"), float("inf")])
    gone = {**heading.settings, "mean": float("nan"), "deviation": float("nan")}
    write(file, table_of(replace(heading, settings=gone), columns))
    section = inspector(read(run))
    assert section is not None
    [part] = [part for part in section.parts if isinstance(part, Inspector)]
    assert "NaN" not in data_block(part.data)
    step: Any = cast("dict[str, Any]", part.data)["steps"][0]
    assert step["settings"]["mean"] is None
    [answer] = step["rollouts"][0]["answers"]
    assert np.isnan(unpacked(answer["columns"]["rewards"])).all(), "the file's own numbers stand"


def test_of_many_answers_and_steps_few_are_carried(tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "ppo")
    for step in range(1, 11):
        ppo_file(run, step, [1 + row % 9 for row in range(100)], seed=step)
    found = payload(run)
    shown = [rollout for step in found["steps"] for rollout in step["rollouts"]]
    assert found["of"] == {"steps": 10, "rollouts": 1000}
    assert 50 <= len(shown) <= MOST_ROLLOUTS
    assert {why for rollout in shown for why in rollout["picked"]} == {"first", "last", "best", "worst", "random"}


def test_long_answers_leave_room_for_fewer_and_the_longest_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_pages, "MOST_BYTES", 300_000)
    run = run_at_hand(tmp_path / "run", "ppo")
    ppo_file(run, 1, [500, 500, 400, 4, 600, 300, 2000, 500])
    found = payload(run)
    shown = found["steps"][0]["rollouts"]
    assert len(orjson.dumps(shown)) < 300_000
    assert found["too_long"] == 8 - len(shown) > 0
    assert 4 in [rollout["length"] for rollout in shown]
    assert 2000 not in [rollout["length"] for rollout in shown]


def test_steps_stand_in_their_order_beyond_a_million(tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "ppo")
    for step in (1_000_000, 200_000, 999_999):
        ppo_file(run, step, [2])
    assert [step["step"] for step in payload(run)["steps"]] == [200_000, 999_999, 1_000_000]


def test_many_steps_are_thinned_out_between_the_first_and_the_last(tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "ppo")
    for step in range(1, 31):
        ppo_file(run, step, [2, 3])
    steps = [step["step"] for step in payload(run)["steps"]]
    assert (steps[0], steps[-1], len(steps)) == (1, 30, 12)


def test_answers_are_compared_with_what_the_others_to_their_prompt_earned(tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "ppo")
    path = ppo_file(run, 1, [2, 3, 4, 5], group=2, baseline="rloo")
    rewards = pq.ParquetFile(path).read(["rewards"]).column(0).to_pylist()
    groups = [rollout["group"] for rollout in payload(run)["steps"][0]["rollouts"]]
    assert [group["own"] for group in groups] == [0, 1, 0, 1]
    assert groups[3]["totals"] == pytest.approx([sum(rewards[2]), sum(rewards[3])])


def test_a_run_of_the_first_version_opens_with_what_it_has(tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "ppo")
    without_heading(ppo_file(run, 1, [3, 4]))
    found = payload(run)
    [answer] = found["steps"][0]["rollouts"][0]["answers"]
    assert found["steps"][0]["settings"]["gamma"] == 0.99
    assert answer["columns"]["old"][0] == "float64"
    assert "ratio" not in answer["columns"]
    assert found["pieces"] == {}


def test_a_run_of_the_first_version_has_its_texts_from_its_tokenizer(tmp_path: Path, tiny_model: Path) -> None:
    run = run_at_hand(tmp_path / "run", "ppo")
    without_heading(ppo_file(run, 1, [3]))
    for file in tiny_model.glob("tokenizer*"):
        (run / file.name).write_bytes(file.read_bytes())
    found = payload(run)
    tokens = unpacked(found["steps"][0]["rollouts"][0]["answers"][0]["tokens"])
    assert {str(token) for token in tokens} <= {*found["pieces"]}


def parts(section: Any) -> Mapping[type, Any]:
    return {type(part): part for part in section.parts}


def test_the_section_says_what_it_carries_and_has_it_for_json(tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "reward")
    rankings_file(run, 0, [[2, 3, 4], [1, 2]])
    section = inspector(read(run))
    assert section is not None
    assert parts(section)[Prose].text == "All 2 rankings that the run kept, of 1 step."
    assert parts(section)[Inspector].data["method"] == "reward"
    listed = cast("list[dict[str, Any]]", section.facts["rollouts"])
    assert [(each["step"], each["row"], each["length"]) for each in listed] == [(0, 0, 9), (0, 1, 3)]
    ppo = run_at_hand(tmp_path / "ppo", "ppo")
    ppo_file(ppo, 1, [2] * 100)
    section = inspector(read(ppo))
    assert section is not None
    assert parts(section)[Prose].text.startswith("The page carries 64 of 100 answers that the run kept, of 1 step: ")


def test_there_is_no_section_without_files_and_a_damaged_one_is_left_out_and_said(tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "ppo")
    assert inspector(read(run)) is None
    assert followed(read(run)) is None
    ppo_file(run, 1, [2])
    (run / "run" / "inspect" / "step-000002.parquet").write_bytes(b"PAR1")
    for make in (inspector, followed):
        section = make(read(run))
        assert section is not None
        assert "step-000002.parquet is left out: damaged" in parts(section)[Warned].finding.sentence
        assert parts(section)[Inspector].data["steps"]
