"""The worst batch first: it changes nothing, picks what fits, says what a run takes and refuses what does not fit."""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import commands, stopped_at_its_end, trained_on, weights_in
from killing import differing, remains
from stages import LORA, Stages, write_rows
from transformers import LlamaConfig

from posttrain.cli import main
from posttrain.data.pack import Budget
from posttrain.engine.local import LocalEngine
from posttrain.errors import DoesNotFit, Interrupted
from posttrain.recipes import fitting, preflight, setup, weights
from posttrain.recipes.load import Load, budget_of, fullest
from posttrain.types import Batch, TokenBatch

ROOM = 10**9
"""Bytes that are plenty for the tiny model."""


def long_rows(folder: Path) -> Path:
    """Twelve conversations of about 210 tokens, among them one of 256, the model's context."""
    rows = [{"prompt": "x" * 100, "completion": "y" * 100} for _ in range(11)]
    rows = [{**row, "prompt": f"{number:02} {row['prompt']}"} for number, row in enumerate(rows)]
    return write_rows(folder / "long.jsonl", [*rows, {"prompt": "z" * 120, "completion": "y" * 110}])


def memory_of(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """So many bytes are free when a run makes its forecast."""

    def available(device: torch.device) -> int:
        return free

    monkeypatch.setattr(preflight, "available", available)


# --- the worst step -------------------------------------------------------------------------------------------------


def test_the_worst_step_holds_the_longest_row_and_fills_its_micro_batch() -> None:
    lengths = np.array([50, 40, 30, 20, 9, 5])
    assert fullest(lengths, 100, 3) == [0, 1, 4]  # 99 of 100
    assert fullest(lengths, 120, 2) == [0, 1]  # no more rows than a step has
    assert fullest(lengths, 60, 4) == [0, 4, 1, 2]  # 59 of 60, then the longest others
    assert fullest(lengths, 10, 3) == [0, 1, 2]  # longer than the budget: alone
    assert fullest(lengths, 1000, 9) == [0, 1, 2, 3, 4, 5]


def test_no_selection_of_rows_fills_a_micro_batch_much_better() -> None:
    chance = np.random.default_rng(0)
    for _ in range(50):
        lengths = np.sort(chance.integers(1, 200, size=40))[::-1]
        chosen = fullest(lengths, 1000, 40)
        first, total = [], 0
        for place in chosen:
            if total + lengths[place] > 1000:
                break
            first.append(place)
            total += lengths[place]
        assert sorted(chosen) == list(range(40))
        left = [length for place, length in enumerate(lengths) if place not in first]
        assert not left or total + min(left) > 1000
        assert 0 in first


@pytest.mark.parametrize("method", ["sft", "reward", "dpo"])
def test_a_run_tries_a_step_of_its_longest_rows(method: str, stages: Stages, tmp_path: Path) -> None:
    loads: list[Load] = []

    def kept(*given: Any) -> None:
        loads.append(given[3])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "fly", kept)
        assert main([*commands(stages)[method], "--out", str(tmp_path / "run"), "--quiet"]) == 0
    [load] = loads
    alone, together = load.worst(1), load.worst(2 * load.longest)
    sizes = [tokens_of(batch) for batch in alone.micro_batches]
    assert len(alone.rows) == len(together.rows) == 4
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == load.longest
    # The answers of the rankings are twice the number, "no", and "n or so": those of two digits are the longest.
    assert all(int(row.rpartition(":")[2]) > 10 for row in alone.rows)
    first = tokens_of(next(iter(together.micro_batches)))
    assert load.longest < first <= 2 * load.longest


def test_ppo_tries_full_micro_batches_of_answers_to_its_longest_prompts(stages: Stages, tmp_path: Path) -> None:
    loads: list[Load] = []

    def kept(*given: Any) -> None:
        loads.append(given[3])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "fly", kept)
        assert main([*commands(stages)["ppo-trunk"], "--out", str(tmp_path / "run"), "--quiet"]) == 0
    [load] = loads
    prompt = load.longest - 4  # of max_new_tokens
    assert prompt > 4
    full = 2 * load.longest + prompt + 1  # room for two whole answers and one token of a third
    assert [tokens_of(batch) for batch in load.worst(full).micro_batches] == [full, load.longest]
    assert [tokens_of(batch) for batch in load.worst(full - 1).micro_batches] == [2 * load.longest] * 2
    assert [tokens_of(batch) for batch in load.worst(1).micro_batches] == [load.longest] * 4


def tokens_of(batch: Batch) -> int:
    return len(batch.tokens if isinstance(batch, TokenBatch) else batch.tokens.tokens)


# --- nothing is changed ---------------------------------------------------------------------------------------------


@pytest.mark.medium
@pytest.mark.parametrize("method", ["sft-dropout", "reward", "dpo", "ppo-adapters", "ppo-trunk"])
def test_a_run_is_bit_for_bit_the_one_without_a_preflight(
    method: str, stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*commands(stages)[method], "--micro_batch_tokens", "64", "--quiet"]
    assert main([*words, "--out", str(tmp_path / "with")]) == 0

    def nothing(*given: Any) -> None: ...

    monkeypatch.setattr(fitting, "fly", nothing)
    assert main([*words, "--out", str(tmp_path / "without")]) == 0
    assert differing(remains(tmp_path / "with"), remains(tmp_path / "without")) == []


def test_gradients_and_random_numbers_are_as_before(stages: Stages, tmp_path: Path) -> None:
    found: list[tuple[Any, Any, Any]] = []

    def watched(*given: Any) -> None:
        engine: LocalEngine = given[5]
        numbers = torch.get_rng_state()
        preflight.fly(*given)
        found.append((numbers, torch.get_rng_state(), [part.grad for part in engine.trained]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "fly", watched)
        assert main([*commands(stages)["sft-dropout"], "--out", str(tmp_path / "run"), "--quiet"]) == 0
    [(before, after, gradients)] = found
    assert torch.equal(before, after)
    assert set(gradients) == {None}


# --- what is picked -------------------------------------------------------------------------------------------------


def picked(out: Path) -> int:
    """The tokens of a micro-batch that a run says it picked."""
    log = (out / "run" / "log.txt").read_text()
    found = re.search(r"micro_batch_tokens ([\d,]+): the most that the memory allows", log)
    assert found
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize(("width", "tokens"), [(32, 8192), (256, 4096), (288, 2048), (576, 1024), (4096, 1024)])
def test_a_cpu_takes_fewer_tokens_at_once_of_wider_models(width: int, tokens: int) -> None:
    where = setup.Machine(device=torch.device("cpu"), half=None)
    shape = LlamaConfig(hidden_size=width, num_attention_heads=4)
    assert budget_of("auto", where, shape).tokens == tokens
    assert budget_of(4096, where, shape).tokens == 4096


@pytest.mark.parametrize(("width", "tokens"), [(32, 8192), (256, 2048), (288, 1024), (576, 1024)])
def test_a_cpu_takes_half_as_many_where_no_head_has_a_vocabulary(width: int, tokens: int) -> None:
    where = setup.Machine(device=torch.device("cpu"), half=None)
    shape = LlamaConfig(hidden_size=width, num_attention_heads=4)
    assert budget_of("auto", where, shape, vocabulary=False).tokens == tokens


def test_micro_batches_are_halved_until_they_fit(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = long_rows(tmp_path)

    def tried(name: str, free: int) -> Mapping[str, Any]:
        memory_of(monkeypatch, free)
        out = tmp_path / name
        run = trained_on(rows, tiny_model, out, batch_size=12, steps=1)
        return {"picked": picked(out), **run.record["forecast"]}

    plenty = tried("plenty", ROOM)
    assert plenty["picked"] == 8192
    assert plenty["tokens"] > 2000  # all 12 rows
    short = tried("short", round(plenty["growth"] * 0.75))
    assert short["picked"] in (1024, 2048)  # 4,096 would still be all 12 rows
    assert short["tokens"] <= short["picked"]
    assert short["growth"] <= preflight.SHARE * short["available"]
    assert short["memory"]["optimizer"] == plenty["memory"]["optimizer"] == 8 * weights_in(tiny_model)


def test_a_micro_batch_is_never_below_the_longest_row(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "LEAST", 16)
    memory_of(monkeypatch, 1)
    with pytest.raises(DoesNotFit, match=r"at 2[3-5]\d tokens a micro-batch"):
        trained_on(long_rows(tmp_path), tiny_model, tmp_path / "run", steps=1)


def test_tokens_that_were_asked_for_are_not_changed(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"batch_size": 12, "steps": 1, "micro_batch_tokens": 2048}
    rows = long_rows(tmp_path)
    run = trained_on(rows, tiny_model, tmp_path / "run", **settings)
    assert "micro_batch_tokens 2,048: the most" not in (run.path / "run" / "log.txt").read_text()
    memory_of(monkeypatch, round(run.record["forecast"]["growth"] * 0.75))
    with pytest.raises(DoesNotFit, match=r"fix: --micro_batch_tokens auto, or 1,024: the same results in less memory"):
        trained_on(rows, tiny_model, tmp_path / "again", **settings)


def test_a_run_that_goes_on_is_not_told_to_ask_for_automatic_tokens(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"batch_size": 12, "steps": 2, "micro_batch_tokens": 2048, "save_every": 1}
    rows, out, update, done = long_rows(tmp_path), tmp_path / "run", LocalEngine.step, list[int]()

    def interrupted(engine: LocalEngine, rows: Sequence[str]) -> dict[str, float]:
        done.append(signal.raise_signal(signal.SIGTERM) or 1)
        return update(engine, rows)

    monkeypatch.setattr(LocalEngine, "step", interrupted)
    with pytest.raises(Interrupted):
        trained_on(rows, tiny_model, out, **settings)
    memory_of(monkeypatch, 1_000_000)
    with pytest.raises(DoesNotFit, match=r"fix: --micro_batch_tokens 1,024: the same results in less memory"):
        trained_on(rows, tiny_model, out, **settings)


def test_a_run_that_goes_on_keeps_the_tokens_that_it_picked(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "LEAST", 16)
    settings = {"batch_size": 12, "steps": 4, "lora": LORA}
    rows, out = long_rows(tmp_path), tmp_path / "run"
    whole = trained_on(rows, tiny_model, tmp_path / "whole", **settings)
    memory_of(monkeypatch, round(whole.record["forecast"]["growth"] * 0.75))
    update, done = LocalEngine.step, list[int]()

    def interrupted(engine: LocalEngine, rows: Sequence[str]) -> dict[str, float]:
        done.append(1)
        if len(done) == 2:
            signal.raise_signal(signal.SIGTERM)
        return update(engine, rows)

    monkeypatch.setattr(LocalEngine, "step", interrupted)
    with pytest.raises(Interrupted):
        trained_on(rows, tiny_model, out, **settings)
    chosen = picked(out)
    assert chosen < 8192
    memory_of(monkeypatch, ROOM)
    run = trained_on(rows, tiny_model, out, **settings)
    assert run.record["forecast"]["tokens"] <= chosen
    assert run.record["forecast"]["memory"]["optimizer"] == 0  # its moments were loaded already
    assert [row["step"] for row in run.metrics] == [1, 2, 3, 4]


def test_the_tokens_of_a_checkpoint_stay_unless_others_are_asked_for() -> None:
    automatic, asked = Budget(8192, automatic=True), Budget(512)
    state = Budget(2048).state()
    automatic.load_state(state)
    asked.load_state(state)
    assert (automatic.tokens, automatic.automatic, asked.tokens) == (2048, False, 512)


def test_tokens_that_were_asked_for_and_halved_stay_halved_until_the_setting_changes() -> None:
    first = Budget(64)
    assert (first.halve(), first.tokens) == (64, 32)
    state = first.state()
    same, other, automatic = Budget(64), Budget(48), Budget(8192, automatic=True)
    for each in (same, other, automatic):
        each.load_state(state)
    assert [each.tokens for each in (same, other, automatic)] == [32, 48, 32]
    same.halve()
    once_more = Budget(64)
    once_more.load_state(same.state())
    assert once_more.tokens == 16
    assert other.state() == {"tokens": 48}


def test_automatic_tokens_that_were_halved_are_no_setting() -> None:
    first, asked = Budget(64, automatic=True), Budget(64)
    first.halve()
    asked.load_state(first.state())
    assert (first.tokens, asked.tokens) == (32, 64)


# --- what does not fit ----------------------------------------------------------------------------------------------


def test_a_run_that_does_not_fit_ends_with_code_3_and_trains_nothing(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    memory_of(monkeypatch, 100_000)
    out = tmp_path / "run"
    assert main([*commands(stages)["sft"], "--out", str(out), "--quiet"]) == 3
    error = capsys.readouterr().err
    gradients, optimizer = (f"{count * weights_in(stages.base) / 1e6:.1f} MB" for count in (4, 8))
    assert re.fullmatch(
        r"error: this does not fit: it needs \d.\d MB beyond the loaded weights, and 0.1 MB are free\n"
        rf"  gradients {gradients}, optimizer {optimizer}, activations 0.\d MB, at \d\d tokens a micro-batch\n"
        r"  fix: --activation_checkpointing true: the same results in less memory, slower by about a third\n"
        r"    or --lora.rank 16: nearly 0.\d MB less, for gradients and optimizer\n"
        r"    or a smaller model, or a machine with more memory\n",
        error,
    ), error
    assert not (out / "run" / "metrics.jsonl").exists()
    assert not list(out.glob("*.safetensors"))


def test_a_run_that_does_not_fit_leaves_its_checkpoints(stages: Stages, tmp_path: Path) -> None:
    words = [*commands(stages)["sft"], "--save_every", "1", "--quiet", "--out"]
    broken = tmp_path / "run"
    stopped_at_its_end([*words, str(broken)])
    saved = {file: file.read_bytes() for file in broken.glob("run/checkpoints/*/*")}
    assert saved
    with pytest.MonkeyPatch.context() as patch:
        memory_of(patch, 1)
        assert main([*words, str(broken)]) == 3
    assert {file: file.read_bytes() for file in broken.glob("run/checkpoints/*/*")} == saved
    assert main([*words, str(broken)]) == 0


def test_weights_without_room_are_refused_before_a_model_is_loaded(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    count = weights_in(stages.base)

    def available(device: torch.device) -> int:
        return 4 * count - 1

    monkeypatch.setattr(weights, "available", available)
    monkeypatch.setattr(setup, "load_causal", None)
    out = tmp_path / "run"
    assert main([*commands(stages)["sft"], "--out", str(out), "--quiet"]) == 3
    shown = f"{4 * count / 1e6:.1f} MB"
    assert capsys.readouterr().err == (
        f"error: {stages.base}: its {count:,} weights take {shown}, and {shown} are free\n"
        "  fix: a smaller model, or a machine with more memory\n"
    )
    assert not out.exists()


def test_the_time_of_a_dry_run_is_that_of_its_trial_for_all_tokens(stages: Stages, tmp_path: Path) -> None:
    trials: list[preflight.Trial] = []
    settle = preflight.Preflight.settle

    def kept(self: preflight.Preflight, load: Any) -> preflight.Trial:
        trials.append(settle(self, load))
        return trials[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preflight.Preflight, "settle", kept)
        run = trained_on(stages.chats, stages.base, tmp_path / "run", steps=8)
    tokens = sum(row["tokens"] for row in run.metrics)
    assert len(run.metrics) * 4 == 32  # two passes over 16 rows
    expected = trials[0].seconds / trials[0].tokens * tokens
    assert math.isclose(run.record["forecast"]["seconds"], expected, rel_tol=1e-6)
