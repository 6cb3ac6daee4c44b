"""The frame of the benchmarks: what it counts, in which order it runs its sides, and what both sides are given."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.frame import alternate, flops, report, texts, training
from benchmarks.frame.alternate import Spread, in_turns, spread
from benchmarks.frame.digest import row_hash, step_hashes
from benchmarks.frame.sizes import Size
from posttrain.config import CONFIGS, make_config
from posttrain.data.source import EpochSource, Weighted
from posttrain.text.chat import Codec
from posttrain.types import ChatRecord, Message

TINY = Size(hidden=8, layers=1, heads=2, kv_heads=1, intermediate=16, vocabulary=400, tied=True)


@pytest.fixture
def few_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [f"How much is {number} and {number + 1}?" for number in range(80)]
    right = [f"{number} + {number + 1} = {2 * number + 1}\nso it is {2 * number + 1}" for number in range(80)]
    wrong = [f"It is {number}, I think" for number in range(80)]
    monkeypatch.setattr(texts, "answers", lambda: list(zip(asked, right, strict=True)))
    monkeypatch.setattr(texts, "pairs", lambda: list(zip(asked, right, wrong, strict=True)))


# --- what is counted ----------------------------------------------------------------------------------------------


def test_the_work_of_a_prompt_with_two_answers_counts_the_prompt_once() -> None:
    work = flops.work_of([(3, 2, 1)])
    assert (work.useful, work.trained, work.rows) == (6, 3, 1)
    # a prompt of 3: 1 + 2 + 3; an answer of 2 behind it: 4 + 5; one of 1: 4
    assert work.pairs == 6 + 9 + 4


def test_flops_are_those_counted_by_hand() -> None:
    # q and o 8 x 8, k and v 8 x 4 (one of two heads), three of 8 x 16
    assert flops.trunk_weights(TINY) == 2 * 64 + 2 * 32 + 3 * 128
    work = flops.work_of([(3, 2, 1)])
    trunk, head, attention = 2 * 576 * 6, 2 * 8 * 400 * 3, 4 * 8 * 19
    once = trunk + head + attention
    assert flops.training(TINY, work, "sft") == 3 * once
    assert flops.training(TINY, work, "dpo") == 4 * once
    assert flops.training(TINY, work, "dpo", reference=False) == 3 * once
    assert flops.training(TINY, work, "reward") == 3 * (trunk + 2 * 8 * 2 + attention)


def test_work_adds_up() -> None:
    rows = [(3, 2), (5, 1, 4)]
    assert flops.work_of(rows) == flops.work_of(rows[:1]) + flops.work_of(rows[1:])


def test_the_peak_is_the_best_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([{"fp32": 3.0, "bf16": 1.0}, {"fp32": 2.0, "bf16": 4.0}])
    asked: list[list[str]] = []
    monkeypatch.setattr(alternate, "run", lambda words: asked.append(words[1:]) or next(found))
    kinds = ("fp32", "bf16", "fp32")
    assert alternate.peaks("cpu", kinds, alternate.peaks("cpu", kinds)) == {"fp32": 3.0, "bf16": 4.0}
    assert asked == [["cpu", "bf16", "fp32"]] * 2  # each once, and nothing else: bf16 can take minutes


def test_sides_run_in_turns() -> None:
    order: list[str] = []

    def side(name: str) -> int:
        order.append(name)
        return len(order)

    assert in_turns({"a": lambda: side("a"), "b": lambda: side("b")}, 3) == {"a": [1, 3, 5], "b": [2, 4, 6]}
    assert order == ["a", "b"] * 3


def test_a_spread_is_the_median_with_least_and_most() -> None:
    assert spread([3.0, 1.0, 8.0]) == Spread(median=3.0, least=1.0, most=8.0)
    assert str(spread([1234.4, 1200.0, 1250.0])) == "1,234 (1,200–1,250)"
    assert str(spread([2.5])) == "2.50"


def test_work_before_the_first_step_counts_by_the_share_of_steps_and_not_when_it_is_reused(tmp_path: Path) -> None:
    rows = training.Rows(file=tmp_path, tokens=[([1] * 3, [1] * 2, [1])] * 2 * training.BATCH)
    ground = training.Ground(folder=tmp_path, method="dpo", size=TINY, steps=2, rows=rows, ours=tmp_path)
    facts = {"seconds": [9.0, 2.0], "cpu": [9.0, 3.0], "before": {"seconds": 4.0, "cpu": 6.0}}
    facts |= {"growth": 5, "peak": 6, "losses": [0.7, 0.6]}
    found = training.summary(ground, [facts], 1e6)
    useful = 6 * training.BATCH
    assert found["tokens_per_second"].median == pytest.approx(useful / (2.0 + 4.0 / 2))
    assert found["cpu_seconds"].median == pytest.approx(3.0 + 6.0 / 2)
    needed = flops.training(TINY, rows.work(1), "dpo")
    assert found["share_of_gemm"].median == pytest.approx(needed / 4.0 / 1e6)
    again = training.summary(ground, [facts], 1e6, reused=True)
    assert again["tokens_per_second"].median == pytest.approx(useful / 2.0)
    assert again["share_of_gemm"].median == pytest.approx(needed * 3 / 4 / 2.0 / 1e6)


# --- when sides agree ---------------------------------------------------------------------------------------------


def test_a_hash_of_a_step_does_not_know_the_order_of_its_rows_but_that_of_steps() -> None:
    rows = [row_hash([1, 2], [3]), row_hash([1], [2, 3]), row_hash([4], [5]), row_hash([6], [7])]
    assert len(set(rows)) == 4
    first, second = step_hashes(rows, 2)
    assert step_hashes([rows[1], rows[0], *rows[2:]], 2) == [first, second]
    assert step_hashes([*rows[2:], *rows[:2]], 2) == [second, first]


def test_other_tokens_and_other_losses_are_told(tmp_path: Path) -> None:
    rows = training.Rows(file=tmp_path, tokens=[([1], [2])] * training.BATCH)
    ground = training.Ground(folder=tmp_path, method="sft", size=TINY, steps=1, rows=rows, ours=tmp_path)
    good = {"steps": rows.steps(), "losses": [2.0, 1.0]}
    assert not training.disagreements(ground, {"posttrain": [good], "TRL": [good | {"losses": [2.0, 1.0009]}]}, 1e-3)
    other = {"posttrain": [good], "TRL": [good | {"losses": [2.0, 1.1], "steps": ["0"]}]}
    assert len(training.disagreements(ground, other, 1e-3)) == 2


# --- what both are given ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("few_texts")
def test_the_tokens_that_are_counted_are_those_that_our_codec_makes(tmp_path: Path) -> None:
    size = texts.write_tokenizer(tmp_path, vocabulary=400)
    assert 259 < size <= 400
    codec = Codec.load(tmp_path)
    row = training.records("sft")[0]
    ((prompt, answer),) = training.tokens_of([row], tmp_path)
    talk = tuple(Message(role=turn["role"], content=turn["content"]) for turn in row["prompt"] + row["completion"])
    (span,) = codec.conversation(ChatRecord(id="row", messages=talk))
    assert list(span.tokens) == [*prompt, *answer]
    assert list(span.trained) == [False] * len(prompt) + [True] * len(answer)


@pytest.mark.usefixtures("few_texts")
def test_the_peers_rows_stand_in_the_order_in_which_ours_draws_them(tmp_path: Path) -> None:
    ground = training.make_ground(tmp_path, "sft", TINY, 2)
    rows = [json.loads(line) for line in ground.ours.read_text().splitlines()]
    drawn: list[Any] = []

    config: Any = make_config(CONFIGS["sft"], training.our_settings(ground, "fp32", tmp_path / "out", {}))
    source = EpochSource(
        [Weighted(items=rows)], drawn.extend, batch_size=config.batch_size, epochs=config.epochs, steps=config.steps,
        seed=config.seed,
    )  # fmt: skip
    assert len(list(source)) == 2
    assert drawn == [json.loads(line) for line in ground.rows.file.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.usefixtures("few_texts")
@pytest.mark.parametrize("method", ["sft", "dpo", "reward"])
def test_both_sides_see_the_same_tokens_and_end_at_the_same_loss(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trl")
    monkeypatch.setattr(training, "peer_python", lambda name: Path(sys.executable))
    ground = training.make_ground(tmp_path, method, TINY, 2)
    found = {"posttrain": [training.run_ours(ground, "fp32", {})], "TRL": [training.run_peer(ground, "fp32")]}
    assert training.disagreements(ground, found, training.TOLERANCE["fp32"]) == []


# --- processes and files ------------------------------------------------------------------------------------------


def test_a_missing_peer_is_told_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_PEERS", str(tmp_path))
    with pytest.raises(SystemExit, match=r"python -m benchmarks peers trl-1\.16"):
        alternate.peer_python("trl-1.16")


def test_a_finding_is_kept_with_its_command_date_machine_and_commit(tmp_path: Path) -> None:
    file = report.keep("row", {"side": spread([1.0, 2.0, 4.0])}, tmp_path / "row.json")
    found = json.loads(file.read_text())
    assert found["side"] == {"median": 2.0, "least": 1.0, "most": 4.0}
    assert {"command", "date", "machine", "commit"} < set(found)
