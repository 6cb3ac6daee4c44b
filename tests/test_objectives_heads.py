"""The loss of a head: by hand, and the same however a step is cut into micro-batches."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from posttrain import objectives
from posttrain.data.classes import Task, target_batch, target_step
from posttrain.data.examples import TargetItem
from posttrain.loop import loss_of
from posttrain.models.heads import ScalarModel, scalar_head
from posttrain.models.load import load_causal
from posttrain.models.parity import gate_scalar
from posttrain.objectives import ScoreReader
from posttrain.types import PrefixGroup, Span

ROWS = [((5, 6, 7), "b"), ((9,), "a"), ((8, 8, 4, 3, 12), "c"), ((30, 2), "a")]


def items(labels: list[str] | None = None) -> list[TargetItem]:
    return [
        TargetItem(group=PrefixGroup(id=str(n), root=Span.all(tokens, trained=False)), label=label, number=False)
        for n, (tokens, label) in enumerate(ROWS)
        for label in [labels[n] if labels else label]
    ]


@pytest.fixture
def model(tiny_model: Path) -> ScalarModel:
    loaded = load_causal(str(tiny_model))
    loaded.model.requires_grad_(True)
    head = scalar_head(32, outputs=3, generator=torch.Generator().manual_seed(0))
    return ScalarModel(loaded.model.base_model, head)


def test_a_head_of_zeros_knows_nothing(model: ScalarModel) -> None:
    torch.nn.init.zeros_(model.score.weight)
    batch = target_batch(Task(names=("a", "b", "c")).targets(items()))
    scored = objectives.head(ScoreReader(model=model), classes=True)(batch)
    assert float(scored.terms["rows"].total.detach()) == pytest.approx(4 * math.log(3))


def test_cross_entropy_and_squared_error_against_the_library_one_sequence_at_a_time(
    model: ScalarModel, tiny_model: Path
) -> None:
    plain = LlamaForCausalLM.from_pretrained(tiny_model).model
    hidden = torch.stack([plain(torch.tensor([tokens])).last_hidden_state[0, -1] for tokens, _ in ROWS])
    outputs = hidden @ model.score.weight.T
    wanted = torch.tensor([1, 0, 2, 0])
    batch = target_batch(Task(names=("a", "b", "c")).targets(items()))
    scored = objectives.head(ScoreReader(model=model), classes=True)(batch)
    loss = torch.nn.functional.cross_entropy(outputs, wanted, reduction="sum")
    assert float(scored.terms["rows"].total.detach()) == pytest.approx(float(loss.detach()), rel=1e-5)
    right = float((outputs.argmax(dim=1) == wanted).float().mean())
    assert float(scored.metrics["accuracy"].total / scored.metrics["accuracy"].count) == pytest.approx(right)

    single = ScalarModel(model.model, scalar_head(32, generator=torch.Generator().manual_seed(0)))
    numbers = target_batch(Task().targets(items(["0.5", "-2", "3", "1"])))
    scored = objectives.head(ScoreReader(model=single), classes=False)(numbers)
    values = (hidden @ single.score.weight.T).squeeze(-1)
    error = (values - torch.tensor([0.5, -2, 3, 1])).square().sum()
    assert float(scored.terms["rows"].total.detach()) == pytest.approx(float(error.detach()), rel=1e-5)
    assert "accuracy" not in scored.metrics


def test_the_gradient_does_not_depend_on_micro_batches(model: ScalarModel) -> None:
    rows = Task(names=("a", "b", "c")).targets(items())
    gradients: list[list[torch.Tensor]] = []
    for budget in (1, 6, 100):
        model.zero_grad()
        step = target_step(rows, budget)
        for batch in step.micro_batches:
            loss = loss_of(objectives.head(ScoreReader(model=model), classes=True)(batch), step.counts)
            assert loss is not None
            loss.backward()
        gradients.append([part.grad.clone() for part in model.parameters() if part.grad is not None])
    assert len(gradients[0]) > 10
    for other in gradients[1:]:
        for ours, theirs in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_the_gate_measures_a_head_of_several_outputs(model: ScalarModel) -> None:
    parity = gate_scalar(model, "sdpa")
    assert parity.packing
    assert parity.difference < 1e-5
