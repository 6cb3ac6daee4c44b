"""What the token inspector reads: every number against a slow path, one sequence at a time through the plain model."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from architectures import span, tiny_scalar
from peft import PeftModel
from stages import LORA, QUICK, Stages
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import posttrain
from posttrain.data.examples import LabelledItem, RankedItem
from posttrain.data.pack import pack
from posttrain.objectives import ScoreReader
from posttrain.recipes.inspected_pairs import pairs_of
from posttrain.recipes.inspected_rounds import shown_rows
from posttrain.recipes.inspected_scores import prefix_scores
from posttrain.recipes.inspecting import spaced
from posttrain.run import inspect
from posttrain.run.inspect import Heading, heading_of
from posttrain.types import PrefixGroup

pytestmark = pytest.mark.medium

Row = dict[str, Any]
Speaks = Callable[[Row], Tensor]
TEMPERATURE = 0.7
LOG_2 = math.log(2)
PPO: Mapping[str, Any] = {
    "steps": 2, "rollouts": 6, "group": 2, "max_new_tokens": 8, "ppo_epochs": 3, "critic": {"warmup": 0},
    "beta": {"coef": 0.3}, "gamma": 0.9, "lam": 0.8, "rollouts_every": 1, "learning_rate": 0.02, "quiet": True,
    "temperature": TEMPERATURE,
}  # fmt: skip
ROWS: Mapping[str, Any] = {"steps": 3, "eval_data": "30%", "eval_every": 2, **QUICK}


def files(run: Path) -> dict[int, tuple[Heading, list[Row]]]:
    """The files of a run by their step."""
    found: dict[int, tuple[Heading, list[Row]]] = {}
    for file in sorted((run / "run" / "inspect").iterdir()):
        heading = heading_of(file)
        assert heading is not None
        assert file.name == f"step-{heading.step:06d}.parquet"
        found[heading.step] = heading, pq.ParquetFile(file).read().to_pylist()
    return found


def speaker(stages: Stages, folder: Path, temperature: float = 1.0) -> Speaks:
    """The log-probs [n, V] of a folder's model before each token of an answer, no code of ours."""
    adapter = (folder / "adapter_config.json").is_file()
    model: Any = AutoModelForCausalLM.from_pretrained(stages.base if adapter else folder)
    model = (PeftModel.from_pretrained(model, folder) if adapter else model).eval()

    @cache
    def logprobs(prompt: tuple[int, ...], answer: tuple[int, ...]) -> Tensor:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].double() / temperature
        return logits.log_softmax(-1)[len(prompt) - 1 : -1]

    return lambda row: logprobs(tuple(row["prompt_tokens"]), tuple(row["tokens"]))


def of_tokens(row: Row, says: Speaks) -> list[float]:
    return says(row)[range(len(row["tokens"])), row["tokens"]].tolist()


def near(expected: Any, *, within: float = 1e-4) -> Any:
    return pytest.approx(expected, rel=within, abs=within)


def assert_alternatives(row: Row, role: str, says: Speaks) -> None:
    """The five of each place are the likeliest five, and have the log-probs that stand with them."""
    whole = says(row)
    for place, (tokens, logprobs) in enumerate(zip(row[f"{role}_top"], row[f"{role}_top_logprobs"], strict=True)):
        assert len({*tokens}) == 5
        assert logprobs == near(whole[place].topk(5).values.tolist())
        assert logprobs == near(whole[place][tokens].tolist())


def assert_pieces(heading: Heading, rows: list[Row]) -> None:
    """Every id of the file has its text, and no other has."""
    ids = {token for row in rows for name in ("prompt_tokens", "tokens") for token in row[name]}
    for row in rows:
        for name in ("actor_top", "reference_top"):
            ids |= {token for place in row.get(name) or () for token in place}
    assert heading.pieces.keys() == ids
    for row in rows:
        said = "".join(heading.pieces[token] for token in row["tokens"])
        if row["answer"].isascii() and "<" not in said.removesuffix("</s>"):
            assert row["answer"] in said
        assert row["stopped"] == said.endswith("</s>")


# --- ppo --------------------------------------------------------------------------------------------------------------


def credited(row: Row, settings: Mapping[str, Any]) -> tuple[list[float], list[float], list[float]]:
    """Rewards, advantages before whitening and returns of an answer, token by token from the last one."""
    count = len(row["tokens"])
    rewards = [-settings["beta"] * kl for kl in row["kl"]]
    rewards[-1] += row["settled_score"]
    advantages, after, value = [0.0] * count, 0.0, 0.0
    for place in reversed(range(count)):
        delta = rewards[place] + settings["gamma"] * value - row["values"][place]
        after = delta + settings["gamma"] * settings["lam"] * after
        advantages[place], value = after, row["values"][place]
    return rewards, advantages, [a + v for a, v in zip(advantages, row["values"], strict=True)]


def assert_credited(heading: Heading, rows: list[Row]) -> None:
    settings: Mapping[str, Any] = heading.settings
    assert {settings["form"], settings["kl_in"], settings["baseline"]} == {"token", "reward", "critic"}
    for row in rows:
        assert row["kl"] == near([o - r for o, r in zip(row["old"], row["reference"], strict=True)], within=1e-5)
        score = max(-settings["score_clip"], min(settings["score_clip"], row["score"] / settings["scale"]))
        assert row["settled_score"] == near(score - settings["missing_eos_penalty"] * (not row["stopped"]))
        rewards, raw, returns = credited(row, settings)
        assert row["rewards"] == near(rewards, within=1e-5)
        assert row["returns"] == near(returns, within=1e-5)
        assert row["advantages"] == near([(a - settings["mean"]) / settings["deviation"] for a in raw])


def assert_ratio(heading: Heading, row: Row, says: Speaks) -> None:
    ratio = [math.exp(now - old) for now, old in zip(of_tokens(row, says), row["old"], strict=True)]
    assert row["ratio"] == near(ratio, within=1e-3)
    clip: Any = heading.settings["clip"]
    for found, advantage, clipped in zip(row["ratio"], row["advantages"], row["clipped"], strict=True):
        assert clipped == (found > 1 + clip if advantage > 0 else found < 1 - clip)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("layout", ["separate", "adapters", "trunk"])
def test_rounds_of_ppo_in_every_layout(layout: str, stages: Stages, tmp_path: Path) -> None:
    start, judge = (stages.sft, stages.reward) if layout == "separate" else (stages.sft_lora, stages.reward_lora)
    judge = stages.reward if layout == "trunk" else judge
    more = {} if layout == "separate" else {"lora": LORA}
    run = posttrain.ppo(
        model=start, reward=judge, prompts=stages.prompts, layout=layout, out=tmp_path / "run", **PPO, **more
    )
    before, after = speaker(stages, start, TEMPERATURE), speaker(stages, run.path, TEMPERATURE)
    found = files(run.path)
    assert [*found] == [1, 2]
    for step, (heading, rows) in found.items():
        assert (heading.method, len(rows)) == ("ppo", 6)
        assert heading.settings["temperature"] == TEMPERATURE
        assert heading.settings["beta"] == run.metrics[3 * (step - 1)]["beta"]
        assert_pieces(heading, rows)
        assert_credited(heading, rows)
        for row in rows:
            assert row["reference"] == near(of_tokens(row, before))
            assert_alternatives(row, "reference", before)
            if step == 1:  # whose actor is the reference still
                assert row["old"] == near(of_tokens(row, before))
                assert_alternatives(row, "actor", before)
            else:  # after whose updates the actor was saved
                assert_ratio(heading, row, after)
    ratios = [ratio for row in found[1][1] for ratio in row["ratio"]]
    assert max(abs(ratio - 1) for ratio in ratios) > 0.01, "the updates of the round are in its ratio"


@pytest.mark.parametrize("count", [1, 64, 65, 96, 1000])
def test_of_a_large_round_the_ends_and_some_between_have_alternatives(count: int) -> None:
    scores = torch.randn(count)
    rows = [*shown_rows(scores)]
    assert rows == sorted({*rows})
    assert len(rows) == min(64, count)
    assert {0, count - 1} <= {*scores.argsort().argsort()[rows].tolist()}


def test_answers_without_alternatives_have_all_else(stages: Stages, tmp_path: Path) -> None:
    few = {**PPO, "steps": 1, "rollouts": 66, "max_new_tokens": 2, "ppo_epochs": 1}
    run = posttrain.ppo(model=stages.sft, reward=stages.reward, prompts=stages.prompts, out=tmp_path / "run", **few)
    [(_, rows)] = files(run.path).values()
    assert sum(row["actor_top"] is None for row in rows) == 2
    assert all((row["actor_top"] is None) == (row["reference_top_logprobs"] is None) for row in rows)
    assert all(len(row["ratio"]) == len(row["tokens"]) for row in rows)


# --- pairs ------------------------------------------------------------------------------------------------------------


def assert_pairs(rows: list[Row], beta: float, policy: Speaks, reference: Speaks) -> None:
    for number, (pair, both) in enumerate(groupby(rows, key=lambda row: row["pair"])):
        chosen, rejected = both
        assert pair == number
        assert (chosen["role"], rejected["role"]) == ("chosen", "rejected")
        assert chosen["prompt_tokens"] == rejected["prompt_tokens"]
        for row in (chosen, rejected):
            assert row["policy"] == near(of_tokens(row, policy))
            assert row["reference"] == near(of_tokens(row, reference))
            assert_alternatives(row, "actor", policy)
            assert_alternatives(row, "reference", reference)
            assert row["log_ratio"] == near([p - r for p, r in zip(row["policy"], row["reference"], strict=True)])
            assert row["sum_policy"] == pytest.approx(math.fsum(row["policy"]))
            assert row["sum_reference"] == pytest.approx(math.fsum(row["reference"]))
            assert row["implicit_reward"] == near(beta * (row["sum_policy"] - row["sum_reference"]), within=1e-6)
            assert row["margin"] == near(chosen["implicit_reward"] - rejected["implicit_reward"], within=1e-6)
            assert row["loss"] == near(math.log1p(math.exp(-row["margin"])), within=1e-6)


@pytest.fixture
def every_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is kept at each evaluation, however few rows were trained on."""
    monkeypatch.setattr("posttrain.recipes.inspecting.ROWS", 1)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.usefixtures("every_evaluation")
@pytest.mark.parametrize("how", ["weights", "lora"])
def test_pairs_of_dpo_before_between_and_after_its_steps(how: str, stages: Stages, tmp_path: Path) -> None:
    start = stages.sft if how == "weights" else stages.sft_lora
    more = {} if how == "weights" else {"lora": LORA}
    run = posttrain.dpo(model=start, data=stages.rankings, beta=0.2, out=tmp_path / "run", **ROWS, **more)
    before, after = speaker(stages, start), speaker(stages, run.path)
    found = files(run.path)
    assert [*found] == [0, 2, 3]
    shown = {step: [(row["prompt_id"], row["tokens"]) for row in rows] for step, (_, rows) in found.items()}
    assert shown[0] == shown[2] == shown[3]
    for heading, rows in found.values():
        assert (heading.method, heading.settings["beta"], heading.settings["loss"]) == ("dpo", 0.2, "sigmoid")
        assert_pieces(heading, rows)
    for row in found[0][1]:
        assert {*row["log_ratio"]} == {0.0}, "at the start the policy is its reference, bit for bit"
        assert row["loss"] == pytest.approx(LOG_2)
    assert_pairs(found[3][1], 0.2, after, before)
    assert any(row["margin"] != 0 for row in found[2][1])
    assert [row["sample"] for row in found[0][1]][:2] == [0, 1], "the best and the first of the worst of [1, 2, 2]"


@pytest.mark.usefixtures("every_evaluation")
def test_pairs_of_training_rows_are_shown_where_none_are_held_out(stages: Stages, tmp_path: Path) -> None:
    run = posttrain.dpo(
        model=stages.sft, data=stages.rankings, loss="simpo", out=tmp_path / "run",
        **{**ROWS, "eval_data": None, "eval_every": 2},
    )  # fmt: skip
    found = files(run.path)
    assert [*found] == [0, 2, 3]
    heading, rows = found[0]
    assert len(rows) == 32
    absent = {"reference", "log_ratio", "sum_reference", "implicit_reward", "reference_top", "reference_top_logprobs"}
    assert not absent & rows[0].keys()
    settings: Any = heading.settings
    for chosen, rejected in zip(rows[0::2], rows[1::2], strict=True):
        means = [math.fsum(row["policy"]) / len(row["tokens"]) for row in (chosen, rejected)]
        assert chosen["margin"] == near(means[0] - means[1], within=1e-6)
        asked = settings["beta"] * chosen["margin"] - settings["gamma"]
        assert chosen["loss"] == near(math.log1p(math.exp(-asked)), within=1e-6)


def test_labelled_answers_and_ties_alone_make_no_pairs() -> None:
    group = PrefixGroup(id="row", root=span(3, torch.Generator()), branches=(span(2, torch.Generator()),) * 3)
    assert pairs_of([LabelledItem(group=group, labels=(True, False, True), weight=1.0)]) == []
    ties, ranking = (
        RankedItem(group=group, ranks=ranks, weight=1.0, margin=0.0, annotator=None)
        for ranks in ((1, 1, None), (2, 1, 2))
    )
    assert [pair.places for pair in pairs_of([ties, ranking])] == [(1, 0)]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_round_of_online_dpo_is_kept_as_pairs_before_its_update(stages: Stages, tmp_path: Path) -> None:
    run = posttrain.online_dpo(
        model=stages.sft_lora, reward=stages.reward_lora, prompts=stages.prompts, lora=LORA, out=tmp_path / "run",
        steps=2, rollouts=8, group=4, max_new_tokens=6, learning_rate=0.02, beta=0.2, temperature=TEMPERATURE,
        quiet=True,
    )  # fmt: skip
    before = speaker(stages, stages.sft_lora, TEMPERATURE)
    found = files(run.path)
    assert [*found] == [1, 2]
    for heading, rows in found.values():
        assert heading.method == "online-dpo"
        assert_pieces(heading, rows)
        assert all(row["reference"] == near(of_tokens(row, before)) for row in rows)
    assert_pairs(found[1][1], 0.2, before, before)
    assert any(abs(ratio) > 1e-3 for row in found[2][1] for ratio in row["log_ratio"])


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("every_evaluation")
def test_scores_of_every_prefix_are_those_of_the_saved_classifier(stages: Stages, tmp_path: Path) -> None:
    run = posttrain.reward(model=stages.sft, data=stages.rankings, out=tmp_path / "run", **ROWS)
    found = files(run.path)
    assert [*found] == [0, 2, 3]
    heading, rows = found[3]
    card = json.loads((run.path / "reward.json").read_text())
    assert {name: heading.settings[name] for name in card} == card
    assert (found[0][0].settings["shift"], found[0][0].settings["scale"]) == (0.0, 1.0)
    model = AutoModelForSequenceClassification.from_pretrained(run.path).eval()
    for row in rows[:3]:
        for count in range(1, len(row["tokens"]) + 1):
            tokens = torch.tensor([[*row["prompt_tokens"], *row["tokens"][:count]]])
            with torch.no_grad():
                assert row["scores"][count - 1] == near(float(model(input_ids=tokens).logits))
    assert all(row["score"] == row["scores"][-1] for row in rows)
    assert [row["rank"] for row in rows[:3]] == [1, 2, 2]
    assert [row["ranking"] for row in rows] == [place // 3 for place in range(len(rows))]
    assert found[0][1][0]["scores"] != rows[0]["scores"]
    assert_pieces(heading, rows)


@pytest.mark.parametrize("mean", [False, True])
def test_the_score_of_a_prefix_is_that_of_an_answer_that_ends_there(mean: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    reader = ScoreReader(model=tiny_scalar(), mean=mean)
    group = PrefixGroup(
        id="row",
        root=span(5, generator, trained=False),
        branches=tuple(span(length, generator) for length in (4, 0, 7)),
    )
    prefixes, scores = prefix_scores(reader, [group])
    for branch, found, score in zip(group.branches, prefixes, scores, strict=True):
        for count in range(len(branch.tokens) + 1):
            cut = type(branch)(tokens=branch.tokens[:count], trained=branch.trained[:count])
            batch = pack([PrefixGroup(id="cut", root=group.root, branches=(cut,))])
            alone = float(reader(batch, torch.tensor([1])).detach())
            if count:
                assert float(found[count - 1]) == pytest.approx(alone, abs=1e-5)
            if count == len(branch.tokens):
                assert float(score) == pytest.approx(alone, abs=1e-5)


# --- when, and what when it cannot be written -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "steps", "batch_size", "apart"),
    [
        (None, 100, 64, 100),
        (10, 100, 64, 10),
        (1, 1000, 64, 50),
        (7, 100, 128, 7),
        (3, 1000, 32, 51),
        (1, 100, 64, 8),
        (1, 100, 60, 9),
        (10, 100, 8, 70),
        (1, 5, 32, 16),
    ],
)
def test_a_run_over_rows_keeps_a_file_at_evaluations_not_too_many_and_never_soon_after_another(
    interval: int | None, steps: int, batch_size: int, apart: int
) -> None:
    assert spaced(interval, steps, batch_size) == apart
    assert steps // apart <= 20


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files of the inspector find no room, and leave half of one."""

    def refused(path: Path, table: pa.Table) -> None:
        path.write_bytes(b"PAR1")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(inspect, "_put", refused)
        yield


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("command", ["ppo", "reward"])
def test_a_full_disk_is_said_and_ends_no_run(command: str, stages: Stages, tmp_path: Path) -> None:
    out = tmp_path / "run"
    if command == "ppo":
        few = {**PPO, "steps": 1, "ppo_epochs": 1}
        run = posttrain.ppo(model=stages.sft, reward=stages.reward, prompts=stages.prompts, out=out, **few)
    else:
        run = posttrain.reward(model=stages.sft, data=stages.rankings, out=out, **{**ROWS, "steps": 1})
    assert run.status == "done"
    assert [*(out / "run" / "inspect").iterdir()] == []
    unit = "round 1" if command == "ppo" else "step 0"
    said = f"{unit} is not kept for the inspector: [Errno 28] No space left on device"
    assert (out / "run" / "log.txt").read_text().count(said) == 1
