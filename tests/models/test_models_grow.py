"""Rows for new tokens: the mean of the others, in head and embedding, and nothing else moves."""

from __future__ import annotations

import pytest
import torch
from architectures import VOCABULARY, tiny

from posttrain.models.grow import grow

TOKENS = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi", "gemma2"])
@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_are_the_mean_and_old_logits_stay_as_they_were(family: str, tied: bool) -> None:
    model = tiny(family, tie_word_embeddings=tied)
    with torch.no_grad():
        before = model(input_ids=TOKENS).logits
        embedding = model.get_input_embeddings().weight.clone()
        head = model.get_output_embeddings().weight.clone()
    assert grow(model, (VOCABULARY, VOCABULARY + 1)) == 2
    with torch.no_grad():
        after = model(input_ids=TOKENS).logits
    assert after.shape[-1] == VOCABULARY + 2
    assert torch.equal(after[..., :VOCABULARY], before)
    for now, was in ((model.get_input_embeddings().weight, embedding), (model.get_output_embeddings().weight, head)):
        assert torch.equal(now[:VOCABULARY], was)
        by_hand = torch.stack([was[:, column].sum() / VOCABULARY for column in range(was.shape[1])])
        torch.testing.assert_close(now[VOCABULARY:], by_hand.expand(2, -1))
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
    assert not any(part.requires_grad for part in model.parameters())


def test_a_new_tokens_logit_is_the_mean_of_all_logits() -> None:
    model = tiny("llama", tie_word_embeddings=False)
    with torch.no_grad():
        before = model(input_ids=TOKENS).logits
        grow(model, (VOCABULARY,))
        torch.testing.assert_close(
            model(input_ids=TOKENS).logits[..., VOCABULARY], before.mean(-1), rtol=1e-4, atol=1e-5
        )


def test_spare_rows_are_used_and_nothing_is_resized() -> None:
    model = tiny("llama", tie_word_embeddings=False)
    before = model.get_input_embeddings().weight.clone()
    assert grow(model, (90, 91)) == 0
    after = model.get_input_embeddings().weight
    assert after.shape == before.shape
    assert torch.equal(after[:90], before[:90])
    assert torch.equal(after[92:], before[92:])
    torch.testing.assert_close(after[90], before[:90].mean(0))
