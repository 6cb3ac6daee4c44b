"""The models of the enumerable world: small Llamas of the transformers library, and what they say of every response."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from posttrain.models.attention import IMPLEMENTATION, register
from posttrain.models.heads import Policy, ScalarModel, before, scalar_head
from posttrain.rollout.buffer import pack_answers
from posttrain.rollout.sampler import BatchedSampler
from posttrain.types import TokenBatch, moved
from posttrain.workflows.proofs.world import END, World, text_of

CONTEXT = 16
SPREAD = 0.1  # of the random weights: answers are not uniform, and training still moves them


def make_policy(
    world: World, *, seed: int = 0, width: int = 24, layers: int = 2, dtype: torch.dtype = torch.float32
) -> Policy:
    """A random Llama over the world's tokens whose answers are far from uniform, attending by layouts.

    In float64 its norms are torch's own, because those of transformers go through float32.
    """
    register()
    config = LlamaConfig(
        vocab_size=world.vocabulary, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=CONTEXT, initializer_range=SPREAD,
        bos_token_id=None, eos_token_id=END, pad_token_id=END,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model = model.to(dtype).eval()  # pyright: ignore[reportArgumentType]  # transformers narrows `to` to its overloads
    if dtype == torch.float64:
        _norms_of_torch(model)
    model.set_attn_implementation(IMPLEMENTATION)
    return Policy(model)


def make_scalar(
    world: World, *, seed: int = 0, width: int = 24, layers: int = 2, dtype: torch.dtype = torch.float32
) -> ScalarModel:
    """A critic or reward model on another random Llama, which begins at 0 everywhere."""
    policy = make_policy(world, seed=seed + 1, width=width, layers=layers, dtype=dtype)
    return ScalarModel(policy.trunk.model, scalar_head(width, zero=True).to(dtype))


def _norms_of_torch(model: PreTrainedModel) -> None:
    for parent in list(model.modules()):
        for name, part in list(parent.named_children()):
            if type(part).__name__ == "LlamaRMSNorm":
                weight = next(part.parameters())
                own = nn.RMSNorm(len(weight), eps=model.config.rms_norm_eps, dtype=weight.dtype)
                own.weight = nn.Parameter(weight.detach().clone())
                setattr(parent, name, own)


def sampler_of(world: World, policy: Policy, *, max_slots: int = 256) -> BatchedSampler:
    """The package's sampler over the world's tokens; it stops at END where responses of this world do."""
    ends = any(len(tokens) < world.length for tokens in world.responses)
    stop_ids = frozenset({END}) if ends else frozenset[int]()
    return BatchedSampler(
        policy, stop_ids=stop_ids, decode=lambda ids: text_of(list(ids)), context=CONTEXT, max_slots=max_slots
    )


def whole_batch(world: World) -> TokenBatch:
    """Every response to every prompt in one packed batch, each prompt once."""
    completions = world.completions()
    return pack_answers(completions, [place for place in range(len(world.prompts)) for _ in world.responses])


def token_logprobs(world: World, policy: Policy) -> Tensor:
    """Float [P, M]: the policy's log-prob of each token of each response, differentiable."""
    batch = moved(whole_batch(world), policy.device)
    return policy(batch).logprobs[batch.trained].view(len(world.prompts), -1)


def response_logprobs(world: World, policy: Policy) -> Tensor:
    """Float64 [P, Y]: the policy's log-prob of each response, differentiable; their exps add up to 1 a prompt."""
    return world.of_response(token_logprobs(world, policy).double().cpu())


def token_values(world: World, critic: ScalarModel) -> Tensor:
    """Float [P, M]: the critic's value before each token of each response, differentiable."""
    batch = moved(whole_batch(world), critic.score.weight.device)
    return before(batch, critic(batch))[batch.trained].view(len(world.prompts), -1)


def plain_logprobs(world: World, policy: Policy) -> Tensor:
    """Float64 [P, Y]: as `response_logprobs`, one sequence at a time through the model's own attention and head.

    Nothing of our packing, layouts or chunked heads has a part in it.
    """
    policy.model.set_attn_implementation("sdpa")
    try:
        found = [_plain(policy, answer.prompt.tokens, answer.tokens) for answer in world.completions()]
    finally:
        policy.model.set_attn_implementation(IMPLEMENTATION)
    return torch.stack(found).view(len(world.prompts), -1)


def _plain(policy: Policy, prompt: tuple[int, ...], answer: tuple[int, ...]) -> Tensor:
    tokens = torch.tensor([[*prompt, *answer]], device=policy.device)
    logits = policy.model(input_ids=tokens, use_cache=False).logits[0, len(prompt) - 1 : -1]
    wanted = tokens[0, len(prompt) :, None]
    return (logits.double() / policy.temperature).log_softmax(-1).gather(-1, wanted).sum().cpu()
