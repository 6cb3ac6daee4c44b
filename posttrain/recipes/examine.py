"""A model's part in `check`: its tokenizer, template and limits, and what they make of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from posttrain.config import CheckConfig
from posttrain.config.automatic import auto_max_length
from posttrain.errors import ModelError
from posttrain.models.checked import shape_of
from posttrain.models.load import base_of, context_length
from posttrain.recipes.checked import Shown
from posttrain.recipes.setup import quiet_libraries
from posttrain.text.chat import Codec
from posttrain.text.doctor import Examination
from posttrain.text.pieces import pieces
from posttrain.types import LabelledRecord, PrefixGroup, RankedRecord, Record, Span, TargetRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a model says of rows before it is loaded. `limit` is the longest sequence in tokens, None when unknown."""

    codec: Codec
    limit: int | None
    embedding: int | None
    config: CheckConfig

    def examination(self) -> Examination:
        """A new examination, for one file."""
        return Examination(self.codec, loss_on=self.config.loss_on, embedding=self.embedding)

    def shown(self, number: int, record: Record, groups: Sequence[PrefixGroup]) -> Iterator[Shown]:
        """A row as it would be trained: a conversation or each of its samples, or a prompt and each of its answers."""
        for place, group in enumerate(groups, start=1):
            part = f" {place}/{len(groups)}" if len(groups) > 1 else ""
            label = f" = {record.label}" if isinstance(record, TargetRecord) else ""
            yield self._shown(f"row {number}{part}{label}", record, group.root)
        if isinstance(record, RankedRecord):
            for rank, branch in zip(record.ranks, groups[0].branches, strict=True):
                yield self._shown("no rank" if rank is None else f"rank {rank}", record, branch)
        if isinstance(record, LabelledRecord):
            for good, branch in zip(record.labels, groups[0].branches, strict=True):
                yield self._shown("good" if good else "bad", record, branch)

    def _shown(self, title: str, record: Record, span: Span) -> Shown:
        return Shown(id=record.id, title=title, pieces=tuple(pieces(self.codec.words, span)))


def open_words(model: str, config: CheckConfig) -> Words:
    """The tokenizer, template and limits of `model`, none of its weights.

    Raises ModelError for a model without a tokenizer, and for a max_length beyond its context.
    """
    quiet_libraries()
    codec = Codec.load(model, template=config.template)
    context, embedding = _limits(model)
    limit = auto_max_length(context)[0] if context is not None else None
    if config.max_length != "auto":
        limit = config.max_length
        if context is not None and limit > context:
            what = f"max_length {limit} is more than the model's context of {context}"
            raise ModelError(f"{what}\n  fix: lower max_length")
    return Words(codec=codec, limit=limit, embedding=embedding, config=config)


def _limits(model: str) -> tuple[int | None, int | None]:
    """The context of a model and the rows of its embedding; unknown where a folder holds nothing but a tokenizer."""
    try:
        settings = shape_of(base_of(model))
    except ModelError:
        return None, None
    return context_length(settings), settings.get_text_config().vocab_size
