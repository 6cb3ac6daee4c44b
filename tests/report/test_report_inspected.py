"""Files of the inspector as they are read: rollouts in brief, rows whole, and no more of a file than is looked at."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from inspected_at_hand import pairs_file, ppo_file, rankings_file, run_at_hand, without_heading

from posttrain.errors import DataError
from posttrain.report.inspected import Inspected, of_the_answer, opened, per_token
from posttrain.report.inspection import whole


def test_an_answer_of_ppo_is_a_rollout_with_its_settled_score_and_its_group(tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "ppo")
    file = opened(ppo_file(run, 3, [2, 3, 4, 1, 5, 6], group=3, baseline="rloo"), {})
    settled = pq.ParquetFile(file.path).read(["settled_score"]).column(0).to_pylist()
    assert (file.method, file.step) == ("ppo", 3)
    assert [(brief.first, brief.count, brief.length) for brief in file.briefs] == [
        (row, 1, length) for row, length in enumerate([2, 3, 4, 1, 5, 6])
    ]
    assert [brief.score for brief in file.briefs] == settled
    assert [brief.group for brief in file.briefs] == [(0, 3)] * 3 + [(3, 6)] * 3


def test_a_prompt_that_is_asked_again_is_another_group(tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "ppo")
    path = ppo_file(run, 1, [1] * 4, group=2)
    table = pq.ParquetFile(path).read()
    same = pa.array(["p"] * 4)
    pq.write_table(table.set_column(table.column_names.index("prompt_id"), "prompt_id", same), path)
    assert [brief.group for brief in opened(path, {}).briefs] == [(0, 2), (0, 2), (2, 4), (2, 4)]


def test_pairs_and_rankings_stand_together_whatever_their_samples(tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "dpo")
    pairs = opened(pairs_file(run, 1, [2, 3, 4, 5]), {})
    margins = pq.ParquetFile(pairs.path).read(["margin"]).column(0).to_pylist()
    assert [(brief.first, brief.count, brief.score) for brief in pairs.briefs] == [
        (0, 2, margins[0]),
        (2, 2, margins[2]),
    ]
    rankings = opened(rankings_file(run, 2, [[2, 3, 4], [5, 6]]), {})
    scores = pq.ParquetFile(rankings.path).read(["score"]).column(0).to_pylist()
    assert [(brief.first, brief.count, brief.length) for brief in rankings.briefs] == [(0, 3, 9), (3, 2, 11)]
    assert [brief.score for brief in rankings.briefs] == [scores[0] - scores[1], None]  # of the other one is ranked


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_a_row_is_found_wherever_the_file_is_cut_into_groups(tmp_path: Path, rows: int) -> None:
    run = run_at_hand(tmp_path / "run", "ppo")
    path = ppo_file(run, 1, [1 + row % 5 for row in range(300)])
    table = pq.ParquetFile(path).read()
    pq.write_table(table, path, row_group_size=rows)
    file = opened(path, {})
    expected = table.column("tokens").to_pylist()
    for first, count in [(0, 1), (127, 3), (299, 1), (0, 300), (5, 9)]:
        found = [row["tokens"].as_py() for row in file.rows(first, count)]
        assert found == expected[first : first + count]


def test_batches_are_read_as_they_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_at_hand(tmp_path / "run", "ppo")
    path = ppo_file(run, 1, [2] * 1000)
    read: list[int] = []
    plain = Inspected._batches_from

    def counting(self: Inspected, row: int, columns: object) -> object:
        for start, batch in plain(self, row, columns):  # pyright: ignore[reportArgumentType]
            read.append(batch.num_rows)
            yield start, batch

    monkeypatch.setattr(Inspected, "_batches_from", counting)
    opened(path, {}).rows(3, 2)
    assert sum(read) < 300


def test_columns_of_tokens_are_told_from_those_of_answers(tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "ppo")
    [row] = opened(ppo_file(run, 1, [4]), {}).rows(0, 1)
    assert {*per_token(row)} == {
        "old", "reference", "kl", "values", "rewards", "advantages", "returns", "ratio", "clipped"
    }  # fmt: skip
    assert {*of_the_answer(row)} == {"score", "settled_score"}


def test_a_file_of_the_first_version_is_of_ppo_and_takes_the_settings_of_the_run(tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "ppo")
    path = ppo_file(run, 12, [3, 4])
    without_heading(path)
    file = opened(path, {"gamma": 0.5})
    assert (file.method, file.step, file.settings, file.pieces) == ("ppo", 12, {"gamma": 0.5}, {})
    assert "ratio" not in file.columns
    assert [brief.length for brief in file.briefs] == [3, 4]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "step-000001.parquet"
    path.write_bytes(b"PAR1 and then nothing PAR1")
    with pytest.raises(DataError, match=r"step-000001\.parquet"):
        opened(path, {})


@pytest.mark.parametrize("lost", ["tokens", "prompt_id"])
def test_a_file_without_what_all_have_is_damaged(tmp_path: Path, lost: str) -> None:
    run = run_at_hand(tmp_path / "run", "ppo")
    path = ppo_file(run, 1, [2])
    pq.write_table(pq.ParquetFile(path).read().drop_columns([lost]), path)
    with pytest.raises(DataError, match=rf"step-000001\.parquet  damaged: ValueError: it has no column {lost}"):
        opened(path, {})


def test_a_file_of_any_changed_bytes_is_read_or_refused_by_name(tmp_path: Path) -> None:
    run = run_at_hand(tmp_path / "run", "ppo")
    path = ppo_file(run, 1, [3, 5], group=2, baseline="group")
    whole_file, rng, refused = path.read_bytes(), random.Random(0), list[str]()
    for _ in range(150):
        changed = bytearray(whole_file)
        for _ in range(rng.choice([1, 3, 30])):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        path.write_bytes(changed)
        try:
            file = opened(path, {})
            for place in range(len(file.briefs)):
                whole(file, place)
        except DataError as error:
            refused.append(str(error))
    assert refused
    assert all("step-000001.parquet" in said for said in refused)
