"""What a run keeps for the token inspector, and that no failure to keep it ends the run."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from posttrain.errors import out_of_memory
from posttrain.models.heads import Policy, alternatives
from posttrain.recipes.setup import Telling
from posttrain.records import JSON
from posttrain.run.inspect import TOP, Column, Heading, add, file_name, lists, table_of, write
from posttrain.text.chat import Codec
from posttrain.text.pieces import alone
from posttrain.types import TokenBatch, moved

FILES = 20
"""The most files on the way of a run over rows, besides that of its start and of its end."""
ROWS = 512
"""The fewest rows that are trained on between two such files: what is shown, up to 16 rows, is read for each of them,
which takes as long as to train on 5 to 15."""
TOKENS = 2048
"""Of a micro-batch of shown rows, or a row that is longer: they are read without gradients."""


class Likeliest(NamedTuple):
    """What a policy held likeliest at M places: token ids, int32 [M, 5], by falling log-prob, float32 [M, 5]."""

    tokens: NDArray[np.int32]
    logprobs: NDArray[np.float32]


class Answer(NamedTuple):
    """An answer as it is shown. `prompt` is the id of its prompt; `text` and `stopped` are None where tokens tell."""

    prompt: str
    prompt_tokens: Sequence[int]
    sample: int
    tokens: Sequence[int]
    text: str | None = None
    stopped: bool | None = None


class Inspecting:
    """Writes the files of a run. One for which there is no room, on the disk or in memory, is said and left out."""

    def __init__(self, run: Telling, codec: Codec, method: str) -> None:
        self._run = run
        self._codec = codec
        self._method = method
        self._unit = "round" if method in ("ppo", "online-dpo") else "step"
        self._pieces: dict[int, str] = {}

    @contextmanager
    def spared(self, step: int) -> Generator[None]:
        """Inside, a full disk, a folder that cannot be written and a want of memory are said and end no run."""
        try:
            yield
        except Exception as error:
            if not (isinstance(error, OSError) or out_of_memory(error)):
                raise
            self._run.console.say(f"{self._unit} {step} is not kept for the inspector: {error}")

    def write(
        self,
        step: int,
        answers: Sequence[Answer],
        columns: Mapping[str, Column],
        settings: Mapping[str, JSON],
        tops: Iterable[Likeliest] = (),
    ) -> None:
        """Writes the file of a step, a row an answer; `tops` are all alternatives in it."""
        spans = [span for answer in answers for span in (answer.prompt_tokens, answer.tokens)]
        ids = {token for span in spans for token in span}.union(*(np.unique(top.tokens).tolist() for top in tops))
        heading = Heading(
            method=self._method, step=step, pieces={token: self._piece(token) for token in ids}, settings=settings
        )
        name = file_name(step)
        with self.spared(step):
            write(self._run.writer.inspect / name, table_of(heading, {**self._shown(answers), **columns}))
            self._run.writer.inspected(name)

    def kept(self, step: int) -> bool:
        """Whether the run has a file of this step."""
        return self._run.writer.has_inspected(file_name(step))

    def add(self, step: int, columns: Mapping[str, Column]) -> None:
        """Adds columns to the file of a step. Raises OSError."""
        add(self._run.writer.inspect / file_name(step), columns)

    def _shown(self, answers: Sequence[Answer]) -> dict[str, Column]:
        """The columns that files of all methods have."""
        return {
            "prompt_id": _texts([answer.prompt for answer in answers]),
            "sample": pa.array([answer.sample for answer in answers], pa.int64()),
            "answer": _texts([self._text(answer) for answer in answers]),
            "stopped": pa.array([self._stopped(answer) for answer in answers], pa.bool_()),
            "prompt_tokens": _ids([answer.prompt_tokens for answer in answers]),
            "tokens": _ids([answer.tokens for answer in answers]),
        }

    def _text(self, answer: Answer) -> str:
        return self._codec.decode(answer.tokens) if answer.text is None else answer.text

    def _stopped(self, answer: Answer) -> bool:
        if answer.stopped is not None:
            return answer.stopped
        return bool(answer.tokens) and answer.tokens[-1] in self._codec.stop_ids

    def _piece(self, token: int) -> str:
        if token not in self._pieces:
            self._pieces[token] = alone(self._codec.words, token)
        return self._pieces[token]


def likeliest(policy: Policy, batches: Iterable[TokenBatch]) -> Likeliest:
    """The alternatives of every trained token of the batches, in their order."""
    tokens: list[Tensor] = []
    logprobs: list[Tensor] = []
    with torch.inference_mode():
        for batch in batches:
            found = alternatives(policy, moved(batch, policy.device), TOP)
            tokens.append(found[0].cpu())
            logprobs.append(found[1].float().cpu())
    if not tokens:
        return Likeliest(np.zeros((0, TOP), np.int32), np.zeros((0, TOP), np.float32))
    return Likeliest(torch.cat(tokens).int().numpy(), torch.cat(logprobs).numpy())


def top_columns(role: str, found: Likeliest, lengths: Sequence[int | None]) -> dict[str, Column]:
    """The columns of a role's alternatives, `actor` or `reference`; None among the lengths is an answer without."""
    return {f"{role}_top": lists(found.tokens, lengths), f"{role}_top_logprobs": lists(found.logprobs, lengths)}


def numbers(values: Tensor) -> NDArray[np.float32]:
    """A tensor as the files have it."""
    return values.detach().float().cpu().numpy()


def spaced(interval: int | None, steps: int, batch_size: int) -> int:
    """The steps from one file of a run over rows to the next: a multiple of those between two evaluations.

    No more than 20 lie between start and end, with 512 rows or more from one to the next. All the steps of the run
    where it is not evaluated.
    """
    if interval is None:
        return steps
    least = max(-(-steps // FILES), -(-ROWS // batch_size))
    return interval * -(-least // interval)


def _ids(spans: Sequence[Sequence[int]]) -> Column:
    return pa.array([[*span] for span in spans], pa.list_(pa.int32()))


def _texts(texts: Sequence[str]) -> Column:
    """A column of texts; half a character, as in a file's name, is written as its escape."""
    return pa.array([text.encode(errors="backslashreplace").decode() for text in texts], pa.string())
