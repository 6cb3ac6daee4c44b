"""The batched sampler against `generate`, teacher forcing and the one-by-one path, on tiny models of many families."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from posttrain.errors import DataError, Diverged
from posttrain.models.adapters import LoraSpec, active, attach
from posttrain.models.attention import IMPLEMENTATION, register
from posttrain.models.heads import Policy
from posttrain.rollout.sampler import BatchedSampler, OneByOneSampler
from posttrain.types import Completion, Prompt, PromptRecord, SamplingSpec
from tests.architectures import ALONE, PACKED, tiny

VOCABULARY = 97
CONTEXT = 96
SMALL: dict[str, object] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
EXPERTS: dict[str, object] = {"num_experts_per_tok": 2}
FAMILIES: dict[str, dict[str, object]] = {
    "llama": {},
    "qwen3": {},
    "mistral": {"sliding_window": 7},
    "gemma2": {"sliding_window": 9, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0},
    "phi3": {},
    "gpt_neox": {"rotary_pct": 0.5},
    "olmo2": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, "n_inner": 48},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_oss": {"num_local_experts": 4, "sliding_window": 6, **EXPERTS},
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 16, **EXPERTS},
    "granite": {"logits_scaling": 3.0},
}
GREEDY = SamplingSpec(max_new_tokens=12, temperature=0.0)


def tiny_model(family: str, **changes: object) -> PreTrainedModel:
    """A random model of the family with its own attention, in evaluation mode."""
    config = AutoConfig.for_model(family, **{**SMALL, **FAMILIES[family], **changes})
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # Families that initialise to zeros or ones would hide an ignored sink, bias or norm.
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def prompt(tokens: Sequence[int], name: str | None = None) -> Prompt:
    """A prompt of these tokens."""
    label = name or "-".join(map(str, tokens))
    return Prompt(id=label, tokens=tuple(tokens), record=PromptRecord(id=label, text=""))


def ragged_prompts(count: int, longest: int = 14) -> list[Prompt]:
    """Prompts of random tokens and of lengths from 1 to `longest`."""
    lengths = torch.randint(1, longest + 1, (count,)).tolist()
    return [prompt(torch.randint(2, VOCABULARY, (length,)).tolist(), f"p{n}") for n, length in enumerate(lengths)]


def spell(tokens: Sequence[int]) -> str:
    """Text in which every token is two letters."""
    return "".join(chr(97 + token // 10) + chr(97 + token % 10) for token in tokens)


def batched(model: PreTrainedModel, stack: tuple[str, ...] = (), **changes: object) -> BatchedSampler:
    """A batched sampler of the model, which attends by layouts from now on."""
    register()
    model.set_attn_implementation(IMPLEMENTATION)
    settings: dict[str, object] = {"stop_ids": frozenset[int](), "decode": spell, "context": CONTEXT, **changes}
    return BatchedSampler(Policy(model, stack=stack), **settings)


def one_by_one(model: PreTrainedModel, stop_ids: frozenset[int] = frozenset()) -> OneByOneSampler:
    """A one-by-one sampler of the model, which attends as it is written from now on."""
    model.set_attn_implementation("eager")
    return OneByOneSampler(Policy(model, packing=False), stop_ids=stop_ids, decode=spell, context=CONTEXT)


def tokens_of(completions: Sequence[Completion]) -> list[tuple[int, ...]]:
    return [completion.tokens for completion in completions]


def teacher_forced(model: PreTrainedModel, completion: Completion, temperature: float = 1.0) -> Tensor:
    """The log-probs of a completion's tokens, by one plain forward pass over the whole sequence."""
    sequence = torch.tensor([[*completion.prompt.tokens, *completion.tokens]])
    with torch.no_grad():
        logits = model(sequence).logits[0, len(completion.prompt.tokens) - 1 : -1].float() / temperature
    return logits.log_softmax(-1).gather(1, sequence[0, -len(completion.tokens) :, None]).squeeze(1)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_equal_those_of_generate(family: str) -> None:
    model = tiny_model(family)
    prompts = ragged_prompts(5)
    expected = [
        tuple(
            model.generate(
                torch.tensor([p.tokens]),
                attention_mask=torch.ones(1, len(p.tokens)),
                max_new_tokens=12,
                do_sample=False,
            )[0, len(p.tokens) :].tolist()
        )
        for p in prompts
    ]
    assert tokens_of(batched(model, max_slots=3)(prompts, GREEDY)) == expected


@pytest.mark.parametrize("family", sorted({*PACKED, *ALONE} - {*FAMILIES}))
def test_greedy_answers_of_further_families_equal_those_of_generate(family: str) -> None:
    model = tiny(family)
    prompts = [prompt([5, 6, 7, 8, 9]), prompt([10, 11, 12])]
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": VOCABULARY}
    expected = [
        tuple(
            model.generate(torch.tensor([p.tokens]), attention_mask=torch.ones(1, len(p.tokens)), **settings)[
                0, len(p.tokens) :
            ].tolist()
        )
        for p in prompts
    ]
    spec = SamplingSpec(max_new_tokens=8, temperature=0.0)
    found = batched(model)(prompts, spec) if family in PACKED else one_by_one(model)(prompts, spec)
    assert tokens_of(found) == expected
    if family in PACKED:
        model.set_attn_implementation("eager")
    for completion in found:
        forced = teacher_forced(model, completion)
        torch.testing.assert_close(torch.tensor(completion.logprobs), forced, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_captured_logprobs_equal_teacher_forcing(family: str) -> None:
    model = tiny_model(family)
    own = model.config._attn_implementation
    spec = SamplingSpec(max_new_tokens=9, samples=2, temperature=0.7, top_k=20)
    completions = batched(model, max_slots=3)(ragged_prompts(4), spec)
    model.set_attn_implementation(own)
    for completion in completions:
        expected = teacher_forced(model, completion, temperature=0.7)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_by_one_and_batched_answers_are_equal(family: str) -> None:
    model = tiny_model(family)
    prompts = ragged_prompts(3)
    spec = SamplingSpec(max_new_tokens=8, samples=2, seed=3)
    alone = one_by_one(model)(prompts, spec)
    together = batched(model)(prompts, spec)
    assert tokens_of(alone) == tokens_of(together)
    for one, other in zip(alone, together, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_samples_depend_neither_on_the_batch_nor_on_the_number_of_slots(family: str) -> None:
    model = tiny_model(family)
    prompts = ragged_prompts(7)
    spec = SamplingSpec(max_new_tokens=15, samples=3, seed=4)
    stop_ids = frozenset(range(8))
    expected = batched(model, stop_ids=stop_ids)(prompts, spec)
    assert len({len(completion.tokens) for completion in expected}) > 3
    for slots in (1, 2, 5):
        assert tokens_of(batched(model, stop_ids=stop_ids, max_slots=slots)(prompts, spec)) == tokens_of(expected)
    backwards = batched(model, stop_ids=stop_ids, max_slots=4)(prompts[::-1], spec)
    assert {(c.prompt.id, c.sample): c.tokens for c in backwards} == {
        (c.prompt.id, c.sample): c.tokens for c in expected
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_in_fixed_memory_some_at_a_time_give_the_same_answers(family: str) -> None:
    model = tiny_model(family)
    prompts = ragged_prompts(4)
    # Llama goes on for so long that the rows are shifted to make room.
    spec = SamplingSpec(max_new_tokens=70 if family == "llama" else 20, samples=2, seed=4)
    stop_ids = frozenset(range(3))
    expected = batched(model, stop_ids=stop_ids, max_slots=3)(prompts, spec)
    found = batched(model, stop_ids=stop_ids, max_slots=3, stride=7)(prompts, spec)
    assert tokens_of(found) == tokens_of(expected)
    assert [c.stopped for c in found] == [c.stopped for c in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


@pytest.mark.parametrize("stride", [2, 8])
def test_steps_some_at_a_time_see_stop_strings_and_the_end_of_the_context(stride: int) -> None:
    model = tiny_model("gpt2")  # positions are rows of a table, which ends
    prompts = [prompt([5] * (CONTEXT - 3)), prompt([5, 6, 7]), prompt([8] * (CONTEXT - 30))]
    free = batched(model)(prompts, SamplingSpec(max_new_tokens=60, seed=1))
    spec = SamplingSpec(max_new_tokens=60, seed=1, stop=(free[1].text[21:24],))
    expected = batched(model)(prompts, spec)
    found = batched(model, stride=stride)(prompts, spec)
    assert [(c.tokens, c.text, c.stopped) for c in found] == [(c.tokens, c.text, c.stopped) for c in expected]
    assert expected[1].stopped


def test_completions_come_prompt_by_prompt_and_sample_by_sample() -> None:
    prompts = ragged_prompts(3)
    completions = batched(tiny_model("llama"))(prompts, SamplingSpec(max_new_tokens=2, samples=2))
    assert [(c.prompt.id, c.sample) for c in completions] == [(p.id, sample) for p in prompts for sample in (0, 1)]
    assert all(c.prompt is prompts[n // 2] for n, c in enumerate(completions))


def test_samples_of_a_prompt_differ_and_another_round_gives_others() -> None:
    sampler = batched(tiny_model("llama"))
    first = tokens_of(sampler([prompt([5, 6, 7])], SamplingSpec(max_new_tokens=10, samples=4)))
    second = tokens_of(sampler([prompt([5, 6, 7])], SamplingSpec(max_new_tokens=10, samples=4, round=1)))
    assert len({*first, *second}) == 8


def test_a_prompt_is_read_once_for_all_its_samples() -> None:
    model = tiny_model("llama")
    sampler = batched(model, max_slots=2)
    read: list[int] = []
    model.base_model.register_forward_pre_hook(
        lambda _module, _args, keywords: read.append(keywords["input_ids"].shape[1]), with_kwargs=True
    )
    sampler([prompt(range(2, 22)), prompt(range(3, 33))], SamplingSpec(max_new_tokens=3, samples=4))
    # One token to see the shapes, 19 and 29 prompt tokens together, then never more than the two slots.
    assert read[:2] == [1, 48]
    assert max(read[2:]) == 2


def test_first_tokens_follow_the_models_distribution() -> None:
    model = tiny_model("llama", vocab_size=11, initializer_range=0.1)
    with torch.no_grad():
        expected = model(torch.tensor([[3, 4, 5]])).logits[0, -1].double().softmax(0) * 3000
    completions = batched(model, max_slots=500)([prompt([3, 4, 5])], SamplingSpec(max_new_tokens=1, samples=3000))
    seen = torch.bincount(torch.tensor([c.tokens[0] for c in completions]), minlength=11)
    # Chi-square with 10 degrees of freedom exceeds 29.6 once in a thousand.
    assert float(((seen - expected) ** 2 / expected).sum()) < 29.6


@pytest.mark.parametrize("path", [batched, one_by_one])
def test_a_stop_token_ends_the_answer_stays_in_it_and_not_in_its_text(path: object) -> None:
    model = tiny_model("llama")
    free = batched(model)([prompt([5, 6])], SamplingSpec(max_new_tokens=20, seed=1))[0]
    stop = free.tokens[7]
    cut = free.tokens.index(stop) + 1
    sampler = path(model, stop_ids=frozenset({stop}))
    completion = sampler([prompt([5, 6])], SamplingSpec(max_new_tokens=20, seed=1))[0]
    assert completion.tokens == free.tokens[:cut]
    assert completion.stopped
    assert completion.text == spell(free.tokens[: cut - 1])
    assert len(completion.logprobs) == cut
    assert not free.stopped
    assert free.text == spell(free.tokens)


def test_a_stop_string_cuts_the_text_and_keeps_the_tokens() -> None:
    sampler = batched(tiny_model("llama"))
    free = sampler([prompt([5, 6])], SamplingSpec(max_new_tokens=40, seed=1))[0]
    # From the second letter of one token to the first of the next but one: no token border at either end.
    stop = free.text[41:44]
    place = free.text.index(stop)
    completion = sampler([prompt([5, 6])], SamplingSpec(max_new_tokens=40, seed=1, stop=("never", stop)))[0]
    assert completion.text == free.text[:place]
    assert completion.tokens == free.tokens[: (place + len(stop) + 1) // 2]
    assert completion.stopped


def test_an_answer_ends_at_the_context_and_is_not_stopped() -> None:
    model = tiny_model("gpt2")
    completions = batched(model)(
        [prompt([5] * (CONTEXT - 1)), prompt([5] * (CONTEXT - 6))], SamplingSpec(max_new_tokens=10)
    )
    assert [(len(c.tokens), c.stopped) for c in completions] == [(1, False), (6, False)]


def test_prompts_without_room_are_all_named() -> None:
    prompts = [prompt([5] * CONTEXT, "a.jsonl:3"), prompt([5], "a.jsonl:4"), prompt([], "a.jsonl:5")]
    with pytest.raises(DataError) as caught:
        batched(tiny_model("llama"))(prompts, GREEDY)
    assert [problem.place for problem in caught.value.problems] == ["a.jsonl:3", "a.jsonl:5"]
    assert "96 tokens and the model's context is 96" in caught.value.problems[0].what
    assert "at most 95 tokens" in caught.value.problems[0].fix


def test_no_prompts_give_no_completions() -> None:
    assert batched(tiny_model("llama"))([], GREEDY) == []


def test_prompts_of_one_token_need_no_reading_ahead() -> None:
    model = tiny_model("llama")
    prompts = [prompt([token]) for token in (5, 6, 7)]
    together = batched(model)(prompts, GREEDY)
    assert tokens_of(together) == [batched(model)([p], GREEDY)[0].tokens for p in prompts]


def test_logits_that_are_not_finite_name_the_prompt() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.get_output_embeddings().weight[3] = float("nan")
    with pytest.raises(Diverged, match="prompt p0"):
        batched(model)([prompt([5, 6], "p0")], GREEDY)


def test_the_model_samples_in_evaluation_mode_and_goes_back() -> None:
    model = tiny_model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5)
    sampler = batched(model)
    expected = tokens_of(sampler([prompt([5, 6])], GREEDY))
    model.train()
    model.base_model.h[0].eval()
    assert tokens_of(sampler([prompt([5, 6])], GREEDY)) == expected
    assert model.training
    assert model.base_model.h[1].training
    assert not model.base_model.h[0].training


def test_the_adapters_of_the_policy_take_part() -> None:
    model = tiny_model("llama")
    for parameter in attach(model, "role", LoraSpec(rank=2, alpha=4.0)):
        parameter.data.normal_(std=0.2)
    completions = {
        stack: batched(model, stack)(ragged_prompts(2), SamplingSpec(max_new_tokens=8)) for stack in ((), ("role",))
    }
    model.set_attn_implementation("eager")
    for stack, answers in completions.items():
        with active(model, stack):
            expected = [teacher_forced(model, answer) for answer in answers]
        for answer, logprobs in zip(answers, expected, strict=True):
            torch.testing.assert_close(torch.tensor(answer.logprobs), logprobs, atol=1e-5, rtol=1e-5)
    assert tokens_of(completions[()]) != tokens_of(completions["role",])


def test_a_policy_can_be_trained_after_it_sampled() -> None:
    model = tiny_model("llama")
    sampler = batched(model)
    sampler([prompt([5, 6])], GREEDY)
    model.set_attn_implementation("sdpa")
    model(torch.tensor([[5, 6, 7]])).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_half_precision_weights_sample_from_their_own_logits() -> None:
    model = tiny_model("llama").bfloat16()
    completions = batched(model)(ragged_prompts(3), SamplingSpec(max_new_tokens=6))
    model.set_attn_implementation("eager")
    for completion in completions:
        difference = torch.tensor(completion.logprobs) - teacher_forced(model, completion)
        assert float(difference.abs().max()) < 0.3
        assert float(difference.abs().mean()) < 0.1


def test_a_model_with_recurrent_state_samples_one_by_one() -> None:
    config = AutoConfig.for_model(
        "mamba", hidden_size=16, num_hidden_layers=2, vocab_size=VOCABULARY, state_size=4, eos_token_id=None
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        expected = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=5, do_sample=False)[0, 3:].tolist()
    completion = one_by_one(model)([prompt([5, 6, 7])], SamplingSpec(max_new_tokens=5, temperature=0.0))[0]
    assert list(completion.tokens) == expected


def test_real_weights_give_the_same_stories_whatever_the_batch(stories_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(stories_model)
    model = AutoModelForCausalLM.from_pretrained(stories_model)
    texts = ["Once upon a time", "The dog", "One day, a boy found a big red ball in the"]
    prompts = [prompt(tokenizer(text).input_ids, text) for text in texts]
    settings = {"stop_ids": frozenset({tokenizer.eos_token_id}), "decode": tokenizer.decode, "context": 512}
    spec = SamplingSpec(max_new_tokens=60, samples=3, stop=(" mom",))
    together = batched(model, **settings)(prompts, spec)
    assert tokens_of(batched(model, max_slots=2, **settings)(prompts, spec)) == tokens_of(together)
    for completion in together:
        assert " mom" not in completion.text
        assert len(completion.text) > 20


@pytest.mark.gpu
def test_a_gpu_gives_the_answers_that_it_gives_without_a_recording() -> None:
    model = tiny_model("llama").cuda()
    told: list[str] = []
    prompts, spec = ragged_prompts(4), SamplingSpec(max_new_tokens=40, samples=2, seed=4)
    expected = batched(model, max_slots=3, stride=1)(prompts, spec)
    found = batched(model, max_slots=3, tell=told.append)(prompts, spec)
    assert tokens_of(found) == tokens_of(expected)
    assert told == []
