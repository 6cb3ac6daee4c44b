"""No objective asks its device for a number while a micro-batch goes forwards and backwards: the host would wait.

The device is a CPU, where nothing waits; so what would on a GPU is caught by its name: operations that give a number to
Python, and those that must know how many places a mask has.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import torch
from architectures import packed_groups, tiny_policy, tiny_scalar
from rows_at_hand import answers, conversations, prompt_numbers, rankings
from torch.utils._python_dispatch import TorchDispatchMode

from posttrain import objectives
from posttrain.data.classes import target_batch
from posttrain.data.examples import LabelledItem, TargetItem
from posttrain.data.labels import labelled_batch
from posttrain.data.rankings import ranked_batch
from posttrain.loop import loss_of
from posttrain.models.adapters import LoraSpec, attach
from posttrain.models.checkpointing import checkpoint_activations
from posttrain.models.heads import Policy, scalar_head
from posttrain.objectives import KTOLoss, PPOLoss, ScoreReader
from posttrain.ops import linear_head, losses
from posttrain.rollout.buffer import pack_answers
from posttrain.types import Batch, Objective, RolloutBatch

Case = Callable[[], tuple[Objective, Batch]]
COUNTS: dict[str, float] = dict.fromkeys(
    ("tokens", "prompts", "rows", "pairs", "chosen", "answers", "actor", "critic", "ptx"), 7.0
)


def policy() -> Policy:
    return tiny_policy()


def reader(*, mean: bool = False) -> ScoreReader:
    return ScoreReader(model=tiny_scalar(), mean=mean)


def text() -> tuple[Objective, Batch]:
    return objectives.sft(policy()), packed_groups()


def text_with_adapters_and_layers_that_run_twice() -> tuple[Objective, Batch]:
    plain = policy()
    checkpoint_activations(plain.model)
    attach(plain.model, "one", LoraSpec(rank=2, alpha=4, dropout=0.1))
    return objectives.sft(Policy(plain.model, stack=("one",))), packed_groups()


def scores(loss: str, *, mean: bool = False) -> tuple[Objective, Batch]:
    batch = ranked_batch(rankings(4), ties="soft", pair_weight="prompt")
    return objectives.reward(reader(mean=mean), loss=loss), batch


def labels() -> tuple[Objective, Batch]:
    items = [TargetItem(group=row, label="1", number=True, target=1.0) for row in conversations(4)]
    return objectives.head(reader(), classes=False), target_batch(items)


def pairs() -> tuple[Objective, Batch]:
    batch = ranked_batch(rankings(4), ties="soft", pair_weight="pair")
    return objectives.dpo(policy(), partial(losses.dpo, beta=0.1), nll=0.2), batch


def means() -> tuple[Objective, Batch]:
    batch = ranked_batch(rankings(4), ties="drop", pair_weight="pair")
    return objectives.dpo(policy(), partial(losses.ipo, beta=0.1), per_token=True), batch


def labelled() -> tuple[Objective, Batch]:
    items = [
        LabelledItem(group=item.group, labels=tuple(rank == 1 for rank in item.ranks), weight=1.0)
        for item in rankings(4)
    ]
    return objectives.kto(policy(), KTOLoss()), labelled_batch(items, 0.1)


def rollouts() -> RolloutBatch:
    done = answers(3, 2)
    tokens = pack_answers(done, prompt_numbers(done))
    some = torch.randn(len(tokens.tokens)) * tokens.trained
    return RolloutBatch(tokens=tokens, old=some, reference=some, values=some, advantages=some, returns=some, beta=0.1)


def apart() -> tuple[Objective, Batch]:
    loss = PPOLoss(clip=0.2, value_clip=0.2, value_coef=1.0, entropy=0.1, kl="k3")
    return objectives.ppo(policy(), tiny_scalar(), loss), rollouts()


def on_the_trunk() -> tuple[Objective, Batch]:
    shared = Policy(tiny_policy().model, value_head=scalar_head(32))
    return objectives.ppo(shared, None, PPOLoss(clip=0.2, value_clip=None, value_coef=1.0)), rollouts()


def text_beside() -> tuple[Objective, Batch]:
    return objectives.ppo(policy(), None, PPOLoss(clip=0.2, value_clip=None, value_coef=1.0, ptx=1.0)), packed_groups()


CASES = {
    "sft": text, "lora": text_with_adapters_and_layers_that_run_twice, "pairwise": partial(scores, "pairwise"),
    "plackett_luce": partial(scores, "plackett_luce"), "mean": partial(scores, "pairwise", mean=True), "head": labels,
    "dpo": pairs, "per_token": means, "kto": labelled, "ppo": apart, "trunk": on_the_trunk, "ptx": text_beside,
}  # fmt: skip


_ATEN = torch.ops.aten
LOOKS = (
    _ATEN._local_scalar_dense, _ATEN.nonzero, _ATEN.masked_select, _ATEN.unique_consecutive, _ATEN._unique2,
    _ATEN.bincount, _ATEN.repeat_interleave, _ATEN.equal,
)  # fmt: skip


class _Blindfold(TorchDispatchMode):
    """Inside, to look at a number of a tensor is an error."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        assert func.overloadpacket not in LOOKS, f"{func} makes the host wait"
        if func.overloadpacket in (_ATEN.index, _ATEN.index_put, _ATEN.index_put_):
            picked = [part for part in args[1] if part is not None]
            assert all(part.dtype != torch.bool for part in picked), "how many places a mask has is asked"
        return func(*args, **(kwargs or {}))


def never(*_: object) -> None:
    raise AssertionError("a tensor is read on the host")


@pytest.mark.parametrize("name", CASES)
def test_a_micro_batch_goes_forwards_and_backwards_without_a_number_read(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, batch = cast("Case", CASES[name])()
    made = torch.tensor
    # Of a GPU's first passes numbers are looked at, to see whether a loss was told rightly; then no more.
    monkeypatch.setattr(linear_head, "_PROOFS", 0)
    monkeypatch.setattr(linear_head, "_AT_HAND", ())

    def tensor(*given: object, device: object = None, **named: object) -> torch.Tensor:
        assert device is None, "a number is carried to the device, and the host waits until it is there"
        return made(*given, **named)

    with monkeypatch.context() as patch, _Blindfold():
        patch.setattr(torch, "tensor", tensor)
        for reading in ("tolist", "numpy", "cpu"):
            patch.setattr(torch.Tensor, reading, never)
        scored = objective(batch)
        loss = loss_of(scored, COUNTS)
        assert loss is not None
        loss.backward()
    assert scored.metrics
