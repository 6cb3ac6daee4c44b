"""What the engines wrap: a policy that gives log-probs, a scalar model that gives values and scores.

Both run a `transformers` model over a packed batch. The model keeps its own head: bias, soft-cap, scale, adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from posttrain.models.adapters import active
from posttrain.models.attention import IMPLEMENTATION, PackedLayout, rows_of, using
from posttrain.models.blocks import BlockLayout, filled_to
from posttrain.ops.linear_head import Ahead, LinearHead, linear_logprobs
from posttrain.ops.logprob import head_logprobs, head_logprobs_and_entropy, head_top, heads_divergence
from posttrain.types import TokenBatch, moved


class PolicyOutput(NamedTuple):
    """Per-token outputs, float [T], 0 where not trained. `entropy` (nats) and `values` are None unless asked for."""

    logprobs: Tensor
    entropy: Tensor | None
    values: Tensor | None


class Trunk(nn.Module):
    """A decoder without its head: packed batch to hidden states [T, D].

    `stack` names the adapters that are active, lowest first. Without `packing` each sequence runs alone through the
    model's own attention: slower, and the oracle for the packed path.
    """

    def __init__(self, model: PreTrainedModel, *, stack: Sequence[str] = (), packing: bool = True) -> None:
        super().__init__()
        self.model = model
        self.stack = tuple(stack)
        self.packing = packing

    def forward(self, batch: TokenBatch) -> Tensor:
        """Hidden states after the last norm, float [T, D]."""
        with active(self.model, self.stack):
            if not self.packing:
                return self._one_by_one(batch)
            length = filled_to(self.model, len(batch.tokens))
            if length is None:
                with using(PackedLayout(batch)):
                    return self.stream(batch.tokens[None], batch.positions[None])
            layout = BlockLayout(batch, length)
            with using(layout):
                return self.stream(layout.tokens[None], layout.positions[None])[: len(batch.tokens)]

    def stream(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Hidden states [n, D] of int64 [1, n] tokens under the layout in use; the caller activates the adapters."""
        return self.model(input_ids=tokens, position_ids=positions, use_cache=False).last_hidden_state.squeeze(0)

    def _one_by_one(self, batch: TokenBatch) -> Tensor:
        outputs: list[Tensor] = []
        place = torch.full_like(batch.segment, -1)
        offset = 0
        for row in rows_of(batch):
            index = torch.tensor(row, device=batch.tokens.device)
            outputs.append(self.model(input_ids=batch.tokens[index][None], use_cache=False).last_hidden_state[0])
            place[index] = torch.arange(offset, offset + len(row), device=place.device)
            offset += len(row)
        return torch.cat(outputs).index_select(0, place)


class Policy(nn.Module):
    """A causal language model as a packed batch's log-probs at a temperature; a value head may share its trunk."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        stack: Sequence[str] = (),
        temperature: float = 1.0,
        packing: bool = True,
        value_head: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        base = model.base_model
        # Where a family's prefix names no part of it, transformers gives the whole model for its base.
        within = (part for part in model.children() if isinstance(part, PreTrainedModel))
        trunk: object = base if base is not model else next(within, model)
        self.trunk = Trunk(cast("PreTrainedModel", trunk), stack=stack, packing=packing)
        self.temperature = temperature
        self.value_head = value_head

    @property
    def stack(self) -> tuple[str, ...]:
        """The active adapters, lowest first."""
        return self.trunk.stack

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    def forward(
        self, batch: TokenBatch, *, entropy: bool = False, detach_values: bool = False, ahead: Ahead | None = None
    ) -> PolicyOutput:
        """Log-probs at the policy's temperature, at trained tokens only; the head never runs elsewhere.

        With `detach_values` the value head learns without moving the trunk that it shares with the policy. `ahead` is
        the loss that will be made of the log-probs, by token [T]: told ahead, a linear head spares a quarter of its
        work. It changes no result.
        """
        hidden = self.trunk(batch)
        places = batch.places
        predictors = batch.predictor[places]
        read, targets = hidden[predictors], batch.tokens[places]
        linear = None if entropy else self._linear(read)
        if entropy:
            logprobs, spread = head_logprobs_and_entropy(read, targets, self.logits, temperature=self.temperature)
        elif linear is None:
            logprobs, spread = head_logprobs(read, targets, self.logits, temperature=self.temperature), None
        else:
            told = None if ahead is None else _at(ahead, places, len(batch.tokens))
            logprobs, spread = linear_logprobs(read, targets, linear, ahead=told), None
        values = None
        if self.value_head is not None:
            values = _read(self.value_head, read.detach() if detach_values else read, batch)
        return PolicyOutput(
            logprobs=_scatter(logprobs, places, len(batch.tokens)),
            entropy=None if spread is None else _scatter(spread, places, len(batch.tokens)),
            values=values,
        )

    def values(self, batch: TokenBatch, *, detach: bool = False) -> Tensor:
        """The values of `forward`, float [T], without its log-probs. Raises RuntimeError without a value head.

        With `detach` the head learns, and nothing is kept of the trunk's pass.
        """
        if self.value_head is None:
            raise RuntimeError("the policy has no value head")
        with torch.set_grad_enabled(torch.is_grad_enabled() and not detach):
            read = self.trunk(batch)[batch.predictor[batch.places]]
        return _read(self.value_head, read, batch)

    def _linear(self, read: Tensor) -> LinearHead | None:
        """The head as a linear map of what it reads, temperature included; None where it is more than that."""
        head = self.model.get_output_embeddings()
        config = self.model.config.get_text_config()
        capped = getattr(config, "final_logit_softcapping", None) is not None
        # An adapter, few bits or a hook make it more than its weight; autocast chooses a precision of its own.
        if type(head) is not nn.Linear or head._forward_hooks or head._forward_pre_hooks or capped:
            return None
        if torch.is_autocast_enabled(read.device.type) or head.weight.dtype != read.dtype:
            return None
        scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        return LinearHead(weight=head.weight, bias=head.bias, scale=scale / self.temperature)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D] by the model's own head, before any temperature."""
        head = cast("nn.Module", self.model.get_output_embeddings())
        config = self.model.config.get_text_config()
        # Entered here, not around the chunks: a chunk recomputed in backward must find its own role's adapters.
        with active(head, self.stack):
            logits = head(hidden)
        if (divisor := getattr(config, "logits_scaling", None)) is not None:  # Granite
            logits = logits / divisor
        if (factor := getattr(config, "logit_scale", None)) is not None:  # Cohere
            logits = logits * factor
        if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma 2
            logits = cap * torch.tanh(logits / cap)
        return logits


def divergence(policy: Policy, reference: Policy, batch: TokenBatch) -> Tensor:
    """The exact KL of a policy from a reference before each trained token, nats, float [T] and 0 elsewhere.

    Both are at the policy's temperature. Whole distributions stand side by side for a chunk of tokens at a time.
    """
    places = batch.places
    predictors = batch.predictor[places]
    read = policy.trunk(batch)[predictors]
    other = reference.trunk(moved(batch, reference.device))[predictors.to(reference.device)].to(read.device)
    found = heads_divergence(read, policy.logits, other, reference.logits, temperature=policy.temperature)
    return _scatter(found, places, len(batch.tokens))


def alternatives(policy: Policy, batch: TokenBatch, count: int) -> tuple[Tensor, Tensor]:
    """Int64 and float [M, count]: what a policy held likeliest in the place of each trained token, and log-probs.

    In the order of the batch's tokens, at the policy's temperature. No gradient.
    """
    read = policy.trunk(batch)[batch.predictor[batch.places]]
    return head_top(read, policy.logits, count, temperature=policy.temperature)


class ScalarModel(nn.Module):
    """A backbone with one number a token: a reward model's score of a prefix, or a critic's value; or with K of them.

    `score` is a bias-free linear layer, kept outside peft; it runs in float32. The number is (score - shift) / scale,
    both constants: a critic that begins as a reward model must begin at that model's centred scores.
    """

    def __init__(
        self, model: PreTrainedModel, score: nn.Linear, *, stack: Sequence[str] = (), packing: bool = True
    ) -> None:
        super().__init__()
        self.trunk = Trunk(model, stack=stack, packing=packing)
        self.score = score
        self.shift, self.scale = 0.0, 1.0

    @property
    def model(self) -> PreTrainedModel:
        """The backbone."""
        return self.trunk.model

    @property
    def stack(self) -> tuple[str, ...]:
        """The active adapters, lowest first."""
        return self.trunk.stack

    def forward(self, batch: TokenBatch) -> Tensor:
        """The number after each token, float32 [T]: that of the sequence up to and including it; [T, K] for K > 1."""
        return (apply_scalar(self.score, self.trunk(batch)) - self.shift) / self.scale


def apply_scalar(head: nn.Linear, hidden: Tensor) -> Tensor:
    """The head's output [M] for hidden states [M, D]: float64 from a float64 head, else float32."""
    with torch.autocast(device_type=hidden.device.type, enabled=False):
        output = nn.functional.linear(hidden.to(head.weight.dtype), head.weight).squeeze(-1)
    return output if output.dtype == torch.float64 else output.float()


def before(batch: TokenBatch, after: Tensor) -> Tensor:
    """Values before each trained token, [T] and 0 elsewhere, of numbers `after` each token: the one shift there is."""
    return torch.where(batch.trained, after[batch.predictor.clamp(min=0)], torch.zeros_like(after))


def scalar_head(
    width: int, *, outputs: int = 1, generator: torch.Generator | None = None, zero: bool = False
) -> nn.Linear:
    """A bias-free float32 head [outputs, D] of deviation 1 / sqrt(D + 1) (Stiennon 2020, B.1), or all zeros."""
    head = nn.Linear(width, outputs, bias=False, dtype=torch.float32)
    with torch.no_grad():
        if zero:
            head.weight.zero_()
        else:
            head.weight.normal_(0.0, (width + 1) ** -0.5, generator=generator)
    return head


def packed(model: PreTrainedModel) -> bool:
    """True when the model attends by our layouts."""
    return getattr(model.config, "_attn_implementation", None) == IMPLEMENTATION


def _at(ahead: Ahead, places: Tensor, length: int) -> Ahead:
    """What is told of a batch's tokens [T], told of its trained tokens alone."""

    def total(logprobs: Tensor) -> Tensor:
        return ahead.total(_scatter(logprobs, places, length))

    return replace(ahead, total=total)


def _read(head: nn.Linear, read: Tensor, batch: TokenBatch) -> Tensor:
    """A head's numbers [T] from the hidden states that stand before the trained tokens, 0 elsewhere."""
    return _scatter(apply_scalar(head, read), batch.places, len(batch.tokens))


def _scatter(values: Tensor, places: Tensor, length: int) -> Tensor:
    """Float [length] with `values` at `places` and 0 elsewhere."""
    return values.new_zeros(length).index_copy(0, places, values)
