"""Answers sampled from a language model: many at a time over a cache of keys and values, or one by one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from posttrain.models.adapters import active
from posttrain.models.attention import using
from posttrain.models.heads import Policy
from posttrain.models.reordered import reordered
from posttrain.rollout.answer import Answer, Stopping, answers_to
from posttrain.rollout.cache import DecodeLayout, KVStore
from posttrain.rollout.draw import UniformTable, draw
from posttrain.rollout.prefill import Prefixes
from posttrain.rollout.schedule import Schedule
from posttrain.rollout.static import StaticSteps
from posttrain.types import Completion, Prompt, SamplingSpec

MAX_SLOTS = 64
"""Answers that are under way at once, unless a sampler is told otherwise."""

GPU_STRIDE = 8
"""Steps that a GPU makes before their tokens are looked at."""

Heard: TypeAlias = Callable[[Sequence[Answer]], None]
"""Called with the answers under way after each look at their tokens, those that have just ended among them."""


class BatchedSampler:
    """A `Sampler` that keeps up to `max_slots` answers under way: one that ends leaves, and the next one enters.

    A prompt is read once for all its samples. Samples depend neither on the batch nor on `max_slots`, except where a
    uniform number falls within float error of a boundary. Steps are made `stride` at a time before their tokens are
    looked at, by default one on a CPU, eight on a GPU, which replays them from a recording; `tell` is told once when it
    cannot. Completions do not depend on it. `heard` may read along.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        stop_ids: frozenset[int],
        decode: Callable[[Sequence[int]], str],
        context: int,
        max_slots: int = MAX_SLOTS,
        stride: int | None = None,
        tell: Callable[[str], None] | None = None,
        heard: Heard | None = None,
    ) -> None:
        if max_slots < 1:
            raise ValueError(f"max_slots is {max_slots}; at least one answer must be under way")
        self._policy = policy
        self._stop_ids = stop_ids
        self._decode = decode
        self._context = context
        self._max_slots = max_slots
        self._stride = stride if stride is not None else (GPU_STRIDE if policy.device.type == "cuda" else 1)
        self._tell = tell
        self._heard = heard

    def __call__(self, prompts: Sequence[Prompt], spec: SamplingSpec) -> list[Completion]:
        """`spec.samples` completions of each prompt, prompt-major.

        An answer ends with a stop token, a stop string, `max_new_tokens` or the model's context; only the first two
        count as stopped. Raises DataError for prompts that leave no room, Diverged when logits are not finite.
        """
        answers = answers_to(prompts, spec, self._context)
        stopping = Stopping(ids=self._stop_ids, strings=spec.stop, decode=self._decode)
        if answers:
            with _sampling(self._policy):
                rollout = _Rollout(self._policy, answers, min(self._max_slots, len(answers)), self._stride, self._heard)
                if self._stride == 1:
                    rollout.run(spec, stopping)
                elif (refused := rollout.run_static(spec, stopping, self._context)) and self._tell is not None:
                    self._tell(f"sampling: steps are not replayed on this GPU ({refused}), each is made anew")
                    self._tell = None
        return [answer.completion(stopping) for answer in answers]


class OneByOneSampler:
    """A `Sampler` for models that cannot be packed: one sequence at a time through the model's own forward and cache.

    Draws the same random numbers as `BatchedSampler`, so both give the same answers where both can run.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        stop_ids: frozenset[int],
        decode: Callable[[Sequence[int]], str],
        context: int,
        heard: Heard | None = None,
    ) -> None:
        self._policy = policy
        self._stop_ids = stop_ids
        self._decode = decode
        self._context = context
        self._heard = heard

    def __call__(self, prompts: Sequence[Prompt], spec: SamplingSpec) -> list[Completion]:
        """`spec.samples` completions of each prompt, prompt-major; ends and errors as in `BatchedSampler`."""
        answers = answers_to(prompts, spec, self._context)
        stopping = Stopping(ids=self._stop_ids, strings=spec.stop, decode=self._decode)
        with _sampling(self._policy):
            for answer in answers:
                self._finish(answer, spec, stopping)
        return [answer.completion(stopping) for answer in answers]

    def _finish(self, answer: Answer, spec: SamplingSpec, stopping: Stopping) -> None:
        device = self._policy.device
        cache: object | None = None
        going = True
        while going:
            # A model that returns no cache reads the whole sequence again.
            read = [answer.last] if cache is not None else [*answer.prompt.tokens, *answer.tokens]
            tokens = torch.tensor([read], device=device)
            output = self._policy.trunk.model(input_ids=tokens, past_key_values=cache, use_cache=True)
            cache = getattr(output, "past_key_values", None)
            uniform = torch.from_numpy(answer.numbers.random(1, dtype=np.float32)).to(device)
            token, logprob = draw(self._policy.logits(output.last_hidden_state[0, -1:]), uniform, spec)
            going = not answer.take(int(token), float(logprob), stopping)
            if self._heard is not None:
                self._heard([answer])


class _Rollout:
    """The state of one call: slots, cache, and what the coming step reads."""

    def __init__(self, policy: Policy, answers: Sequence[Answer], slots: int, stride: int, heard: Heard | None) -> None:
        self._policy = policy
        self._stride = stride
        self._heard = heard
        prompts = {answer.number: answer.prompt.tokens for answer in answers}
        self._prefixes = Prefixes(policy, list(prompts.values()))
        self._schedule = Schedule(answers, slots)
        self._uniforms = UniformTable(slots)
        longest = max(len(answer.prompt.tokens) + answer.room for answer in answers)
        self._store = KVStore(self._prefixes.shapes, slots=slots, longest=longest + stride, device=policy.device)
        self._layout = DecodeLayout(self._store)
        self._tokens = self._positions = torch.empty(0, dtype=torch.int64)

    def run(self, spec: SamplingSpec, stopping: Stopping) -> None:
        """Every answer is finished."""
        rows, device = self._schedule.rows, self._policy.device
        self._turn(())
        while rows:
            uniforms = self._uniforms.take(len(rows)).to(device)
            tokens, logprobs = draw(self._step(), uniforms, spec)
            drawn = zip(rows, tokens.tolist(), logprobs.tolist(), strict=True)
            finished = [slot for slot, (row, token, logprob) in enumerate(drawn) if row.take(token, logprob, stopping)]
            if self._heard is not None:
                self._heard(rows)
            if finished:
                self._turn(finished)
            else:
                self._tokens = tokens.unsqueeze(0)
                self._positions += 1
                if self._store.make_room(len(rows), 0):
                    self._layout.arrange(len(rows))

    def run_static(self, spec: SamplingSpec, stopping: Stopping, context: int) -> str:
        """Every answer is finished, `stride` steps at a time; why a GPU does not replay them, empty where it does."""
        rows, stride, device = self._schedule.rows, self._stride, self._policy.device
        steps = StaticSteps(self._policy, self._store, spec, count=stride, context=context)
        self._turn(())
        while rows:
            self._store.make_room(len(rows), 0, stride)
            uniforms = torch.stack([self._uniforms.take(len(rows)).clone() for _ in range(stride)], dim=1)
            tokens, logprobs = steps.advance([row.last for row in rows], uniforms.to(device))
            drawn = zip(rows, tokens, logprobs, strict=True)
            ended = [_take_all(row, words, chances, stopping) for row, words, chances in drawn]
            finished = [slot for slot, end in enumerate(ended) if end]
            if self._heard is not None:
                self._heard(rows)
            if finished:
                self._turn(finished)
        return steps.refused

    def _step(self) -> Tensor:
        """Logits [n, V] of the next token of every row; the cache holds one column more."""
        self._layout.open()
        with using(self._layout):
            hidden = self._policy.trunk.stream(self._tokens, self._positions)
        self._layout.close()
        return self._policy.logits(hidden)

    def _turn(self, finished: Sequence[int]) -> None:
        """Finished rows have left, waiting ones have entered, and the coming step is laid out."""
        store, rows = self._store, self._schedule.rows
        changes = self._schedule.turn(finished)
        for source, target in changes.moved:
            store.move(source, target)
            self._uniforms.move(source, target)
        entered = [(slot, rows[slot]) for slot in changes.entered]
        store.make_room(len(rows), max((len(row.prompt.tokens) - 1 for _, row in entered), default=0))
        for slot, row in entered:
            store.enter(slot, self._prefixes.of(row.number), len(row.prompt.tokens) - 1)
            self._uniforms.enter(slot, row.numbers)
        if rows:
            self._layout.arrange(len(rows))
            device = self._policy.device
            self._tokens = torch.tensor([[row.last for row in rows]], device=device)
            self._positions = torch.tensor([[store.now - start for start in store.starts[: len(rows)]]], device=device)


def _take_all(row: Answer, tokens: Sequence[int], logprobs: Sequence[float], stopping: Stopping) -> bool:
    """The answer has these tokens more, up to its end, where what was drawn beyond it is dropped; True at its end."""
    return any(row.take(token, logprob, stopping) for token, logprob in zip(tokens, logprobs, strict=True))


@contextmanager
def _sampling(policy: Policy) -> Generator[None]:
    """Inference with the policy's adapters, in evaluation mode; every module goes back to what it was."""
    training = [module for module in policy.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with torch.inference_mode(), active(policy.model, policy.stack), reordered(policy.model):
            yield
    finally:
        for module in training:
            module.training = True
