"""The gate that every model passes at load: our packed log-probs and scores against the model's own, one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from posttrain.errors import ModelError
from posttrain.models import blocks_gate
from posttrain.models.adapters import active, adapter_parameters
from posttrain.models.attention import IMPLEMENTATION, PackedLayout, rows_of, using
from posttrain.models.blocks import attend_by_blocks
from posttrain.models.heads import Policy, ScalarModel, Trunk, apply_scalar
from posttrain.models.precision import in_float32, is_bf16
from posttrain.types import TokenBatch, moved

TOLERANCE = 1e-3
"""Largest difference of a log-prob, or of a score in units of the scores' spread, in float32."""
FARTHER = 2.0
"""How many times as far from float32 as the model's own outputs in bfloat16 ours may be, on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """What a gate measured: the largest difference in float32, and why packing is off when it is.

    `blocks`: attention is one kernel call a layer; `rows` says why it is not on a device that has such kernels.
    `rounding`: how far bfloat16 moves the outputs on average; None for a model in float32.
    """

    difference: float
    packing: bool
    reason: str = ""
    blocks: bool = False
    rows: str = ""
    rounding: float | None = None

    @property
    def way(self) -> str:
        """How the model runs, in words, with the reason where it could be faster."""
        moved = "" if self.rounding is None else f"; bf16 moves them by {self.rounding:.0e} on average"
        if not self.packing:
            return f"one sequence at a time: {self.reason}{moved}"
        if self.blocks:
            return f"packed, attention in one kernel{moved}"
        return (f"packed, attention by rows: {self.rows}" if self.rows else "packed") + moved


def gate_policy(policy: Policy, own_attention: str, *, packing: bool = True) -> Parity:
    """Decides how the policy runs: packed when that equals the model's own log-probs, else one sequence at a time.

    The policy's adapters are given random weights meanwhile. Raises ModelError when neither way equals the model.
    """
    attend_by_blocks(policy.trunk.model, on=False)
    with _stirred(policy.model, policy.stack), _quiet(policy):
        return _decide(
            policy,
            own_attention,
            packing=packing,
            packed=lambda batch: policy(batch).logprobs,
            own=lambda batch: _own_logprobs(policy, batch, own_attention),
        )


def gate_scalar(scalar: ScalarModel, own_attention: str, *, packing: bool = True) -> Parity:
    """The same decision for a scalar model, by its numbers after each token."""
    attend_by_blocks(scalar.trunk.model, on=False)
    with _stirred(scalar.model, scalar.stack), _quiet(scalar):
        return _decide(
            scalar,
            own_attention,
            packing=packing,
            packed=lambda batch: scalar(batch),
            own=lambda batch: _own_scores(scalar, batch, own_attention),
        )


def _with_blocks(parity: Parity, trunk: Trunk) -> Parity:
    """A packed trunk attends by blocks from now on, on a device with kernels for it, where that agrees with rows."""
    if not parity.packing or trunk.model.device.type not in blocks_gate.KERNELS:
        return parity
    rows = blocks_gate.blocks_differ(trunk, random_batch(trunk.model, [40, 30, 40, 55, 25, 70], _PARENTS))
    attend_by_blocks(trunk.model, on=not rows)
    return replace(parity, blocks=not rows, rows=rows)


Outputs = Callable[[TokenBatch], Tensor]


def _decide(
    wrapper: Policy | ScalarModel, own_attention: str, *, packing: bool, packed: Outputs, own: Outputs
) -> Parity:
    """Float32 decides, whatever the weights are in; in bfloat16 ours must then stay about as close to that as its own.

    Raises ModelError when either is not so.
    """
    batch, name = probe_batch(wrapper.model), type(wrapper.trunk.model).__name__
    with in_float32(wrapper.model.parameters()):
        expected = own(batch)
        reason, difference = "packing: off was asked for", math.inf
        if packing:
            reason, difference = _packed(wrapper, batch, packed, expected)
        if reason:
            _switch(wrapper, False, own_attention)
            difference = _difference(packed(batch), expected)
        if not bool(expected.isfinite().all()):
            raise ModelError(
                f"{name}: its outputs are not finite: the weights are damaged\n  fix: copy the folder again, whole"
            )
        if not difference <= TOLERANCE:  # also for NaN
            raise ModelError(
                f"{name}: outputs differ from the model's own by {difference:.1e}, packed or not (allowed: "
                f"{TOLERANCE:.0e})\n  fix: use another model; this architecture's head is not understood"
            )
        parity = _with_blocks(Parity(difference=difference, packing=not reason, reason=reason), wrapper.trunk)
    if not is_bf16(wrapper.model):
        return parity
    try:
        ours, theirs = (float((outputs(batch) - expected).abs().mean()) for outputs in (packed, own))
    except ModelError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"{name} does not compute in bf16: {str(error).splitlines()[0]}\n  fix: precision: fp32"
        ) from error
    if not ours <= FARTHER * theirs + TOLERANCE:  # also for NaN
        raise ModelError(
            f"{name}: bf16 moves outputs by {ours:.1e} on average, the model's own by {theirs:.1e}"
            "\n  fix: precision: fp32"
        )
    return replace(parity, rounding=ours)


def _packed(wrapper: Policy | ScalarModel, batch: TokenBatch, packed: Outputs, expected: Tensor) -> tuple[str, float]:
    """Why the model cannot be packed, or nothing, and the largest difference."""
    kinds: list[str] = getattr(wrapper.model.config.get_text_config(), "layer_types", None) or []
    if "chunked_attention" in kinds:  # a batch shorter than a chunk would show no difference
        return "its layers attend within chunks", math.inf
    try:
        missing = _missing_calls(wrapper.trunk.model, batch)
        difference = _difference(packed(batch), expected)
    except ModelError:  # of compiled layers: packing has no part in it
        raise
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        return f"the model cannot be packed ({str(error).splitlines()[0]})", math.inf
    far = "" if difference <= TOLERANCE else f"packed log-probs differ from the model's own by {difference:.1e}"
    return missing or far, difference


def _difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max())


_PARENTS = (-1, 0, 0, -1, 3, -1)


def probe_batch(model: PreTrainedModel) -> TokenBatch:
    """A small random packed batch, the same each time: two prompts with two and one answers, and a lone sequence."""
    return random_batch(model, (5, 4, 7, 3, 6, 9), _PARENTS)


def random_batch(model: PreTrainedModel, lengths: Sequence[int], parents: Sequence[int]) -> TokenBatch:
    """Random tokens, the same each time, in segments of these lengths and parents; all that can be trained are."""
    vocabulary = int(model.config.get_text_config().vocab_size)
    generator = torch.Generator().manual_seed(0)
    ends = [sum(lengths[: number + 1]) for number in range(len(lengths))]
    positions: list[int] = []
    predictors: list[int] = []
    for length, parent, end in zip(lengths, parents, ends, strict=True):
        begin = lengths[parent] if parent >= 0 else 0
        first = ends[parent] - 1 if parent >= 0 else -1
        positions += range(begin, begin + length)
        predictors += [first, *range(end - length, end - 1)]
    predictor = torch.tensor(predictors)
    tokens = torch.randint(0, vocabulary, (sum(lengths),), generator=generator)
    batch = TokenBatch(
        tokens=tokens,
        positions=torch.tensor(positions),
        segment=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
        parent=torch.tensor(parents),
        predictor=predictor,
        trained=predictor >= 0,
    )
    return moved(batch, model.device)


def _missing_calls(trunk: PreTrainedModel, batch: TokenBatch) -> str:
    """Why the layout did not rule every layer, or nothing: some families have attention code of their own."""
    layout = PackedLayout(batch)
    with using(layout):
        trunk(input_ids=batch.tokens[None], position_ids=batch.positions[None], use_cache=False)
    layers = int(trunk.config.get_text_config().num_hidden_layers)
    if layout.calls != layers:
        return f"packed attention ran in {layout.calls} of {layers} layers"
    return ""


def _own_logprobs(policy: Policy, batch: TokenBatch, own_attention: str) -> Tensor:
    found = torch.zeros(len(batch.tokens), device=batch.tokens.device)
    with _own(policy.model, own_attention), active(policy.model, policy.stack):
        for row in rows_of(batch):
            index = torch.tensor(row, device=found.device)
            logits = policy.model(input_ids=batch.tokens[index][None], use_cache=False).logits[0]
            logprobs = (logits[:-1].float() / policy.temperature).log_softmax(-1)
            found[index[1:]] = logprobs.gather(-1, batch.tokens[index[1:], None]).squeeze(-1)
    return found


def _own_scores(scalar: ScalarModel, batch: TokenBatch, own_attention: str) -> Tensor:
    outputs = scalar.score.out_features
    shape = (len(batch.tokens),) if outputs == 1 else (len(batch.tokens), outputs)
    found = torch.zeros(shape, device=batch.tokens.device)
    with _own(scalar.model, own_attention), active(scalar.model, scalar.stack):
        for row in rows_of(batch):
            index = torch.tensor(row, device=found.device)
            hidden = scalar.model(input_ids=batch.tokens[index][None], use_cache=False).last_hidden_state[0]
            found[index] = apply_scalar(scalar.score, hidden)
    return found


@contextmanager
def _own(model: PreTrainedModel, own_attention: str) -> Generator[None]:
    before = str(model.config._attn_implementation)  # pyright: ignore[reportPrivateUsage]  # no public reader exists
    model.set_attn_implementation(own_attention)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _switch(wrapper: Policy | ScalarModel, on: bool, own_attention: str) -> None:
    wrapper.trunk.packing = on
    wrapper.trunk.model.set_attn_implementation(IMPLEMENTATION if on else own_attention)


@contextmanager
def _quiet(module: torch.nn.Module) -> Generator[None]:
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(training)


@contextmanager
def _stirred(model: PreTrainedModel, stack: Sequence[str]) -> Generator[None]:
    """Adapters start with B = 0 and would hide a fault: inside, every adapter of the stack has small random weights."""
    parameters = [parameter for name in stack for parameter in adapter_parameters(model, name)]
    before = [parameter.detach().clone() for parameter in parameters]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * 0.05)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
