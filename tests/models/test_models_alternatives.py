"""What a policy holds likeliest at each token equals the model's own logits, one sequence at a time, on every head."""

from __future__ import annotations

import pytest
import torch
from architectures import attending_by_layout, groups, tiny

from posttrain.data.pack import pack
from posttrain.models.heads import Policy, alternatives


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite", "cohere", "phi", "gpt_oss"])  # soft-cap, scales, bias
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_alternatives_are_those_of_the_models_own_logits(family: str, temperature: float) -> None:
    model = tiny(family)
    expected: list[torch.Tensor] = []
    for group in groups():
        for branch in group.branches or (None,):
            tokens = [*group.root.tokens, *(branch.tokens if branch else ())]
            trained = [*group.root.trained, *(branch.trained if branch else ())]
            logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].float() / temperature
            expected.append(logits[:-1].log_softmax(-1)[torch.tensor(trained[1:])])
    whole = torch.cat(expected)
    attending_by_layout(model)
    found, logprobs = alternatives(Policy(model, temperature=temperature), pack(groups()), 5)
    torch.testing.assert_close(logprobs, whole.topk(5).values.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(whole.gather(-1, found).detach(), logprobs, rtol=1e-4, atol=1e-4)
