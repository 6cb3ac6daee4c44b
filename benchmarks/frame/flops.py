"""The floating-point operations that a piece of training needs, whoever does it and however it is done.

Only what cannot be left out is counted; padding, prompts encoded twice and anything recomputed are not. With

    P   weights of the trunk that multiply a token: attention and MLP of all layers, no embedding, no norms
    T   tokens that must pass the trunk: a prompt once, each answer, no padding
    H   positions whose prediction is trained, V words, D hidden width
    A   pairs (query, key) of causal attention: a token with itself and all that it sees before

a forward pass is `2 P T + 2 V D H + 4 layers heads head_width A`: two for each weight and token, the head at trained
positions alone, and attention as two products over the lower half of the square. A backward pass is twice that, so
training is three forward passes; a frozen reference in the step is one more. A scalar head is `2 D` at each answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.frame.sizes import Size


@dataclass(frozen=True, kw_only=True)
class Work:
    """Numbers of one or more steps. `pairs` are those of attention, `useful` the tokens that pass the trunk."""

    useful: int
    trained: int
    pairs: int
    rows: int

    def __add__(self, other: Work) -> Work:
        return Work(
            useful=self.useful + other.useful,
            trained=self.trained + other.trained,
            pairs=self.pairs + other.pairs,
            rows=self.rows + other.rows,
        )


NOTHING = Work(useful=0, trained=0, pairs=0, rows=0)


def work_of(rows: Iterable[Sequence[int]]) -> Work:
    """The work of rows given as the length of the prompt and that of each answer; every answer token is trained."""
    total = NOTHING
    for prompt, *answers in rows:
        attention = prompt * (prompt + 1) // 2 + sum(length * prompt + length * (length + 1) // 2 for length in answers)
        total += Work(useful=prompt + sum(answers), trained=sum(answers), pairs=attention, rows=1)
    return total


def trunk_weights(size: Size) -> int:
    """P: weights of the linear layers of all blocks."""
    kv = size.hidden * size.kv_heads // size.heads
    attention = 2 * size.hidden * size.hidden + 2 * size.hidden * kv
    return size.layers * (attention + 3 * size.hidden * size.intermediate)


def forward(size: Size, work: Work, *, outputs: int) -> int:
    """FLOPs of one forward pass; `outputs` is the number of products of width D that the head makes in all."""
    attention = 4 * size.layers * size.hidden * work.pairs
    return 2 * trunk_weights(size) * work.useful + 2 * size.hidden * outputs + attention


def training(size: Size, work: Work, method: str, *, reference: bool = True) -> int:
    """FLOPs of training steps of `sft`, `dpo` (with a forward pass of its `reference`, or without) or `reward`."""
    if method == "reward":
        return 3 * forward(size, work, outputs=2 * work.rows)
    passes = 4 if method == "dpo" and reference else 3
    return passes * forward(size, work, outputs=size.vocabulary * work.trained)
