"""Rows for tokens that a vocabulary got: in the embedding, and in a head that is not tied to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def grow(model: PreTrainedModel, new: Sequence[int]) -> int:
    """The rows that embedding and head got, 0 where spare ones were enough.

    The rows of `new`, which are the last ids of the vocabulary, become the mean of all rows before them (Hewitt 2021):
    a new token then begins no likelier than the average one. Other rows stay as they are, bit for bit.
    """
    embedding = cast("nn.Embedding", model.get_input_embeddings())
    before, known = embedding.num_embeddings, min(new)
    if max(new) >= before:
        # Without its own way of drawing them, which is random and needs a covariance of the whole vocabulary.
        model.resize_token_embeddings(max(new) + 1, mean_resizing=False)
    head = cast("nn.Linear | None", model.get_output_embeddings())
    ours = cast("nn.Embedding", model.get_input_embeddings()).weight
    own_head = head is not None and head.weight is not ours
    bias = None if head is None else cast("Tensor | None", head.bias)
    with torch.no_grad():
        for rows in (
            ours,
            *((head.weight,) if head is not None and own_head else ()),
            *(() if bias is None else (bias,)),
        ):
            rows[list(new)] = rows[:known].mean(dim=0)
    model.requires_grad_(False)
    return max(0, max(new) + 1 - before)
