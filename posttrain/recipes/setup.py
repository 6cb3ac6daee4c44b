"""What every recipe does before and around its training: claim the folder, read data, load models, report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from huggingface_hub.utils import logging as hub_logging
from torch import nn
from transformers import PretrainedConfig
from transformers.utils import logging as transformers_logging

from posttrain.config import DataItem, Lora, Training
from posttrain.config.automatic import auto_learning_rate, auto_max_length
from posttrain.console import Console
from posttrain.counted import counted
from posttrain.engine.local import LocalEngine, ParameterGroup, schedule
from posttrain.errors import ConfigError, DataError, ModelError, Problem
from posttrain.loop import every
from posttrain.models.adapters import LoraSpec, adapter_names, adapter_parameters, attach, duplicate, spec_of
from posttrain.models.checked import check_shards, shape_of
from posttrain.models.grow import grow
from posttrain.models.heads import Policy
from posttrain.models.load import START, Loaded, base_of, context_length, load_causal
from posttrain.models.parity import gate_policy
from posttrain.models.precision import into_bf16
from posttrain.models.quantize import weights_in
from posttrain.recipes.machine import Machine as Machine
from posttrain.recipes.machine import machine as machine
from posttrain.recipes.weights import check_weights
from posttrain.rollout.sampler import BatchedSampler, Heard, OneByOneSampler
from posttrain.run import Run, RunWriter
from posttrain.text.chat import Codec
from posttrain.types import Completion, Hook, Message, Prompt, PromptRecord, Sampler, SamplingSpec

SAMPLE_TOKENS = 256
"""The longest answer to one of a run's sample prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """Where a run tells what it does: its folder and its console. A `dry` run ends before its first step."""

    writer: RunWriter
    console: Console
    dry: bool = False


def quiet_libraries() -> None:
    """transformers and the hub speak only of errors; what matters of a load is checked and said by ourselves."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    hub_logging.set_verbosity_error()


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The start model in memory, gated: `policy` is it as it came, its adapters active and all of it frozen."""

    loaded: Loaded
    policy: Policy
    codec: Codec
    context: int


def config_of(path: str) -> PretrainedConfig:
    """The shape of a model, read before any weights are loaded.

    Raises ModelError when there is no such model, and for files of weights that are damaged.
    """
    Run(Path(path)).require_done()
    base = base_of(path)
    check_shards(Path(base))
    return shape_of(base)


def context_of(path: str) -> int:
    """The longest sequence of a model, read from its config alone."""
    return context_length(config_of(path))


def load_codec(path: str, template: str | None, console: Console, *, add: Sequence[str] = ()) -> Codec:
    """The tokenizer and chat template of a model, announced when they are not the model's own; so are added tokens."""
    Run(Path(path)).require_done()
    codec = Codec.load(path, template=template, add=add)
    if add:
        ids = {codec.words.spelling(token): token for token in codec.words.new}
        known = [text for text in add if text not in ids]
        added = ", ".join(f"{text} is {token}" for text, token in ids.items())
        said = [f"{added} in the vocabulary now"] if ids else []
        said += [f"{', '.join(known)} there already, and as it was"] if known else []
        console.say(f"add_tokens: {'; '.join(said)}")
    if codec.template_source != "tokenizer":
        console.say(f"template: {codec.template_source}, end of turn {codec.words.spelling(codec.end_of_turn)}")
    return codec


def load_start(
    path: str,
    codec: Codec,
    where: Machine,
    console: Console,
    *,
    packing: str = "auto",
    temperature: float = 1.0,
    trained: bool = False,
) -> Start:
    """Loads and gates a causal model; says what the gate measured. Raises DoesNotFit when there is no room for it.

    `trained`: all its weights will be; where the model computes in bfloat16 their float32 values are then kept.
    """
    check_weights(path, where.device, where.quantize)
    loaded = load_causal(path, device=where.device, quantize=where.quantize)
    if codec.words.new:
        rows = grow(loaded.model, codec.words.new)
        more = f"got {counted(rows, 'row')}" if rows else "had room for them"
        console.say(f"add_tokens: embedding and head {more}; theirs begin as the mean of the others")
    where.prepare(loaded.model, console.say)
    rows = cast("nn.Embedding", loaded.model.get_input_embeddings()).num_embeddings
    if codec.vocab_size > rows:
        raise ModelError(f"{path}: the tokenizer has {codec.vocab_size} tokens, the model's embedding {rows}")
    if where.bf16:
        into_bf16(loaded.model, trained=trained)
    policy = Policy(loaded.model, stack=loaded.stack, temperature=temperature)
    parity = gate_policy(policy, loaded.own_attention, packing=packing == "auto")
    console.say(f"parity: log-probs equal the model's own to {parity.difference:.0e}, {parity.way}")
    return Start(loaded=loaded, policy=policy, codec=codec, context=context_length(loaded.model.config))


def max_length(setting: int | Literal["auto"], context: int, console: Console) -> int:
    """The longest sequence in tokens. Raises ModelError when more is asked for than the model has positions."""
    if setting == "auto":
        length, reason = auto_max_length(context)
        console.choose("max_length", length, reason)
        return length
    if setting > context:
        raise ModelError(f"max_length {setting} is more than the model's context of {context}\n  fix: lower max_length")
    return setting


def role(start: Start, name: str, lora: Lora | None, *, packing: bool, seed: int) -> tuple[Policy, list[nn.Parameter]]:
    """A policy to train from the start model, and its parameters: a new adapter on its stack, or all weights.

    An adapter that goes on is trained as a copy, so that the start policy stays what it is. Raises ModelError when the
    start model is an adapter and `lora` is null: its base must stay what it is.
    """
    model, stack = start.loaded.model, start.loaded.stack
    if lora is not None and lora.start == "continue":
        parameters = duplicate(model, START, name, dropout=lora.dropout)
        stack = (name,)
    elif lora is not None:
        parameters = attach(model, name, lora_spec(lora, seed, start))
        stack = (*stack, name)
    elif stack:
        raise ModelError(
            f"{start.loaded.path} is an adapter, and lora is null\n  fix: set lora, for example --lora.rank 32"
        )
    else:
        model.requires_grad_(True)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    policy = Policy(model, stack=stack, temperature=start.policy.temperature, packing=packing)
    if lora is not None:
        gate_policy(policy, start.loaded.own_attention, packing=packing)
    return policy, parameters


def lora_spec(lora: Lora, seed: int, start: Start) -> LoraSpec:
    """The shape of a new adapter as the models layer knows it: as set, or that of the start model's own."""
    if lora.rank is None or lora.alpha is None or lora.targets is None:
        return spec_of(start.loaded.model, START, dropout=lora.dropout, seed=seed)
    return LoraSpec(
        rank=lora.rank,
        alpha=lora.alpha,
        dropout=lora.dropout,
        targets=lora.targets,
        seed=seed,
        rank_pattern=lora.rank_pattern or {},
        alpha_pattern=lora.alpha_pattern or {},
        rslora=lora.rslora,
        dora=lora.dora,
    )


def learning_rate(config: Training, model: nn.Module, console: Console) -> float:
    """The peak learning rate; an automatic one goes by the size of the model without adapters, and is said."""
    if config.learning_rate != "auto":
        return config.learning_rate
    added = sum(part.numel() for name in adapter_names(model) for part in adapter_parameters(model, name))
    size = weights_in(model) - added
    rate, reason = auto_learning_rate(config.command, size, lora=config.lora is not None)
    console.choose("learning_rate", rate, reason)
    return rate


def engine(config: Training, groups: Sequence[ParameterGroup], steps: int, where: Machine) -> LocalEngine:
    """What updates the groups by the run's settings."""
    return LocalEngine(
        groups,
        schedule=schedule(config.schedule, steps=steps, warmup=config.warmup),
        grad_clip=config.grad_clip,
        weight_decay=config.weight_decay,
        half=where.half,
        optimizer=where.optimizer,
    )


def sampler(
    policy: Policy,
    codec: Codec,
    context: int,
    where: Machine,
    *,
    tell: Callable[[str], None] | None = None,
    heard: Heard | None = None,
) -> Sampler:
    """What answers prompts with the policy as it stands at each call, in at most `context` tokens with their prompt.

    `tell` is told once when a GPU cannot replay the steps from a recording; `heard` reads the answers as they come.
    """
    ends, decode = codec.stop_ids, codec.decode
    inner: Sampler
    if policy.trunk.packing:
        inner = BatchedSampler(policy, stop_ids=ends, decode=decode, context=context, tell=tell, heard=heard)
    else:
        inner = OneByOneSampler(policy, stop_ids=ends, decode=decode, context=context, heard=heard)

    def answer(prompts: Sequence[Prompt], spec: SamplingSpec) -> list[Completion]:
        with where.autocast():
            return inner(prompts, spec)

    return answer


def refuse_weights(data: Sequence[DataItem], setting: str) -> None:
    """Raises ConfigError for a weight where every row is used once."""
    problems = [
        Problem(place=f"{setting}: {item.path}", what="every row is used once here", fix="leave the weight out")
        for item in data
        if item.weight != 1
    ]
    if problems:
        raise ConfigError(problems)


def reporting(run: Telling) -> Hook:
    """The last hook of a run: writes and shows a step's metrics, with what the hooks before it measured."""

    def hook(number: int, metrics: Mapping[str, float]) -> None:
        run.writer.metrics(number, metrics)
        if metrics.get("skipped"):
            what = (
                f"a gradient too large for fp16; nothing is updated, the loss scale falls to {metrics['loss_scale']:g}"
            )
            run.console.say(f"step {number}: {what}")
        run.console.step(number, metrics)

    return hook


def evaluating(interval: int | None, last: int, measure: Callable[[], Mapping[str, float]]) -> list[Hook]:
    """Hooks that add `eval_` metrics every `interval` steps and after the last one."""
    return every(interval, lambda number: {f"eval_{name}": value for name, value in measure().items()}, last=last)


def sampling(
    texts: Sequence[str], interval: int | None, last: int, answer: Sampler, codec: Codec, run: Telling
) -> list[Hook]:
    """Hooks that answer the run's sample prompts greedily every `interval` steps."""
    if not texts:
        return []
    records = [
        PromptRecord(id=f"sample {number}", messages=(Message(role="user", content=text),))
        for number, text in enumerate(texts)
    ]
    prompts = codec.prompts(records)
    spec = SamplingSpec(max_new_tokens=SAMPLE_TOKENS, temperature=0.0)

    def act(number: int) -> dict[str, float]:
        for text, done in zip(texts, answer(prompts, spec), strict=True):
            run.writer.sample(number, prompt=text, answer=done.text, stopped=done.stopped)
            run.console.sample(text, done.text, stopped=done.stopped)
        return {}

    return every(interval, act, last=last)


def data_paths(*groups: Sequence[str] | str | None) -> list[str]:
    """The local files among what a run reads, whose content belongs to it."""
    flat = [path for group in groups if group for path in ([group] if isinstance(group, str) else group)]
    return [path for path in flat if Path(path).exists()]


def say_room(prompts: Sequence[Prompt], limit: int, wanted: int, console: Console) -> None:
    """Says how many prompts leave less room than `wanted` answer tokens within `limit`."""
    short = sum(len(prompt.tokens) + wanted > limit for prompt in prompts)
    if short:
        what = f"{short:,} of {counted(len(prompts), 'prompt')} can have"
        console.say(f"max_new_tokens {wanted:,}: {what} only shorter answers, within {limit:,} tokens in all")


def check_room(prompts: Sequence[Prompt], limit: int) -> None:
    """Raises DataError, all at once, for prompts that leave no room for one answer token within `limit`."""
    problems = [
        Problem(
            place=prompt.id,
            what=f"the prompt has {len(prompt.tokens)} tokens, and max_length {limit} leaves no room for an answer",
            fix="shorten the prompt, raise max_length, or use a model with a longer context",
        )
        for prompt in prompts
        if len(prompt.tokens) >= limit
    ]
    if problems:
        raise DataError(problems)


def bystander(policy: Policy, where: Machine) -> LocalEngine:
    """An engine that only measures: nothing of the policy is trained."""
    unused = nn.Parameter(torch.zeros(1, device=where.device))
    group = ParameterGroup(name="none", parameters=[unused], learning_rate=0.0)
    return LocalEngine([group], schedule=lambda done: 0.0, grad_clip=None, half=where.half)
