"""A model measured on held-out rows: loss, ranking accuracy, and fresh answers against another model's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from posttrain import objectives
from posttrain.config import EvalConfig
from posttrain.console import Console
from posttrain.data.examples import ranked_within, within
from posttrain.data.pack import pack, split_by_tokens
from posttrain.errors import ConfigError, DataError, Problem
from posttrain.loop import measure
from posttrain.measures.shares import kl_per_answer, median_length, stopped_share, win_rate
from posttrain.models.heads import Policy
from posttrain.models.load import is_classifier, is_reward_model, load_scalar
from posttrain.models.parity import gate_scalar
from posttrain.objectives import ScoreReader
from posttrain.recipes import setup
from posttrain.recipes.evaluation_kept import Found, Graded, answered, keep
from posttrain.recipes.functions import Loaded, check_columns
from posttrain.recipes.judging import Judging
from posttrain.recipes.labelling import evaluate_labels
from posttrain.recipes.measuring import asked, comparable, compared
from posttrain.recipes.reward import card_of
from posttrain.recipes.rewarding import check_rewards
from posttrain.recipes.rows import Rows, read_rows
from posttrain.recipes.scoring import RewardCard, same_words
from posttrain.rollout.annotate import over_answers
from posttrain.run import check_file_out
from posttrain.text.chat import Codec
from posttrain.types import (
    ChatRecord,
    Completion,
    Grades,
    Kind,
    PrefixGroup,
    Prompt,
    PromptRecord,
    RankedRecord,
    SamplingSpec,
    Scorer,
    TextRecord,
    TokenBatch,
    moved,
)

Facts = dict[str, object]
_KINDS: tuple[Kind, ...] = ("chat", "text", "ranked", "prompt")
_OF_ANSWERS = ("against", "judge", "measures", "answer_after", "max_new_tokens", "temperature", "stop", "functions")
# What is too long for the table of measures.
_LISTS = ("reward_card", "judge_failures", "predictions")


def evaluate(config: EvalConfig, *, console: Console, kinds: tuple[Kind, ...] = _KINDS) -> Facts:
    """What the rows allow: loss of conversations and text, accuracy of rankings and labels, answers to prompts.

    They are read as the first of `kinds` that they can be.

    With `against`, the share of prompts on which the judge prefers the first model's answer, ties one half, and the
    KL between the two. Writes `out` where it is set, and raises RunExists for one that stands already. Of a run's model
    what was found stays in its `run/evaluations/` too.
    """
    setup.quiet_libraries()
    if config.against is not None and config.judge is None:
        raise ConfigError([Problem(place="--against", what="a comparison needs a judge", fix="give --judge runs/rm")])
    _refuse_idle(config)
    setup.refuse_weights(config.data, "data")
    functions = check_rewards(config.judge or ())
    if config.out is not None:
        check_file_out(config.out, [item.path for item in config.data])
    found = _found(config, functions, kinds, console)
    shown = [{"measure": name, "value": _shown(value)} for name, value in found.facts.items() if name not in _LISTS]
    console.table(shown, config.model)
    if config.out is not None:
        Path(config.out).parent.mkdir(parents=True, exist_ok=True)
        Path(config.out).write_text(json.dumps(found.facts, indent=2, default=str) + "\n", encoding="utf-8")
    keep(config, found, console)
    return found.facts


def _refuse_idle(config: EvalConfig) -> None:
    """Raises ConfigError for what is set of answers where the model is one that writes none."""
    kind = "a classifier" if is_classifier(config.model) else "a reward model" if is_reward_model(config.model) else ""
    told = [name for name in _OF_ANSWERS if kind and name in config.model_fields_set]
    if told:
        what = f"{config.model} is {kind}, which writes no answers"
        raise ConfigError([Problem(place=f"--{name}", what=what, fix=f"take {name} out") for name in told])


def _found(config: EvalConfig, functions: Loaded, kinds: tuple[Kind, ...], console: Console) -> Found:
    if is_classifier(config.model):
        return Found(facts=evaluate_labels(config, console))
    rows = read_rows(config.data, kinds, console)
    if is_reward_model(config.model):
        return Found(facts=_of_reward(config, rows, console))
    return _of_policy(config, functions, rows, console)


def _of_reward(config: EvalConfig, rows: Sequence[Rows], console: Console) -> Facts:
    """A reward model's accuracy on rankings, and its card."""
    codec = Codec.load(config.model, template=config.template)
    limit = setup.max_length(config.max_length, setup.context_of(config.model), console)
    records = [record for part in rows for record in part.of(RankedRecord)]
    if not records:
        raise ConfigError(
            [Problem(place="--data", what=f"{config.model} is a reward model; it is measured on rankings")]
        )
    items, losses = ranked_within(records, codec.rankings(records), limit, "drop")
    for name, count in losses.items():
        console.say(f"{count} {name}")
    if not items:
        raise DataError("no ranking is left to measure\n  fix: see the counts above; raise max_length")
    where = setup.machine(config, console)
    scalar, own = load_scalar(config.model, device=where.device, bf16=where.bf16)
    gate_scalar(scalar, own, packing=config.packing == "auto")
    mean = RewardCard.read(config.model).score_at == "mean"
    card = card_of(items, ScoreReader(model=scalar, mean=mean), config.micro_batch_tokens, codec)
    console.table(card.table(), f"reward card of {config.model}")
    return {"accuracy": card.accuracy.share.facts(), "reward_card": card.facts()}


def _of_policy(config: EvalConfig, functions: Loaded, rows: Sequence[Rows], console: Console) -> Found:
    questions = _asked(rows)
    check_columns(functions, questions)
    codec = setup.load_codec(config.model, config.template, console)
    where = setup.machine(config, console)
    limit = setup.max_length(config.max_length, setup.context_of(config.model), console)
    start = setup.load_start(config.model, codec, where, console, packing=config.packing)
    found: Facts = {}
    groups = _groups(rows, codec)
    if groups:
        found["nll"] = _nll(start.policy, groups, limit, config, where, console)
    if not groups and not questions:
        raise DataError("rankings measure a reward model; a policy is measured on conversations, text or prompts")
    if not questions:
        return Found(facts=found)
    of_answers = _answers(config, Judging(config, functions, where, console), start, codec.prompts(questions), limit)
    return Found(facts=found | of_answers.facts, answered=of_answers.answered)


def _groups(rows: Sequence[Rows], codec: Codec) -> list[PrefixGroup]:
    chats = [record for part in rows for record in part.of(ChatRecord)]
    texts = [record for part in rows for record in part.of(TextRecord)]
    spans = [(record.id, span) for record, row in zip(chats, codec.conversations(chats), strict=True) for span in row]
    spans += [(record.id, span) for record, span in zip(texts, codec.texts(texts), strict=True)]
    return [PrefixGroup(id=name, root=span) for name, span in spans]


def _nll(
    policy: Policy,
    groups: Sequence[PrefixGroup],
    limit: int,
    config: EvalConfig,
    where: setup.Machine,
    console: Console,
) -> float:
    """Nats per trained token."""
    kept, losses = within(groups, limit, "drop")
    for name, count in losses.items():
        console.say(f"{count} {name}")
    if not kept:
        raise DataError("no row is left to measure\n  fix: see the counts above; raise max_length")
    batches = [pack(run) for run in split_by_tokens(kept, config.micro_batch_tokens, size=len)]
    return measure(batches, objectives.sft(policy), setup.bystander(policy, where))["loss"]


def _asked(rows: Sequence[Rows]) -> list[PromptRecord]:
    """The prompts among the rows; a conversation asks for its last answer, which stands by as the reference."""
    prompts = [record for part in rows for record in part.of(PromptRecord)]
    return prompts + [asked(chat) for part in rows for chat in part.of(ChatRecord)]


def _answers(
    config: EvalConfig,
    judging: Judging,
    start: setup.Start,
    prompts: Sequence[Prompt],
    limit: int,
) -> Found:
    setup.check_room(prompts, limit)
    questions = comparable(prompts, config, judging.console, source="measures")
    if not questions.places and "measures" in config.model_fields_set:
        what = "no row has a reference to compare an answer with"
        fix = "give conversations, or prompts with a column reference, or take measures out"
        raise ConfigError([Problem(place="--measures", what=what, fix=fix)])
    spec = SamplingSpec(
        max_new_tokens=config.max_new_tokens, temperature=config.temperature, stop=config.stop, seed=config.seed
    )
    ours = setup.sampler(start.policy, start.codec, start.context, judging.where)(prompts, spec)
    found: Facts = {
        "answers": len(ours),
        "ended_by_itself": stopped_share(ours).facts(),
        "median_tokens": median_length(ours),
    }
    measures = compared(config, [ours[place] for place in questions.places], questions)
    found |= {name: measure.facts() for name, measure in measures.items()}
    if config.judge is None:
        return Found(facts=found, answered=answered(config, ours, questions))
    judge = judging.judge(start.codec)
    grades = judging.grades(judge, ours, "")
    found |= _judged(grades, "judge")
    theirs = None
    if config.against is not None:
        graded = Graded(answers=ours, scores=grades.total)
        compared_with, theirs = _against(config, judging, start, prompts, spec, judge, graded)
        found |= compared_with
    rows = answered(config, ours, questions, grades.total, theirs)
    return Found(facts=found | judging.failures(), answered=rows)


def _judged(grades: Grades, name: str) -> Facts:
    """The mean score of the answers that have one, and the means of its parts."""
    means: Facts = {f"{name}_score": float(grades.total.nanmean())}
    return means | {f"{name} {part}": float(values.nanmean()) for part, values in grades.parts.items()}


def _against(
    config: EvalConfig,
    judging: Judging,
    start: setup.Start,
    prompts: Sequence[Prompt],
    spec: SamplingSpec,
    judge: Scorer,
    ours: Graded,
) -> tuple[Facts, Graded]:
    """What is found against the other model, and its answers with their scores."""
    other_path, console, where = config.against or "", judging.console, judging.where
    codec = setup.load_codec(other_path, config.template, console)
    other = setup.load_start(other_path, codec, where, console, packing=config.packing)
    theirs = setup.sampler(other.policy, codec, other.context, where)(
        codec.prompts([prompt.record for prompt in prompts]), spec
    )
    their_judge = judge if same_words(codec, start.codec) else judging.judge(codec)
    their_grades = judging.grades(their_judge, theirs, " of against")
    scores, their_scores = ours.scores, their_grades.total
    both = scores.isfinite() & their_scores.isfinite()
    found: Facts = {"win_rate": win_rate(scores[both], their_scores[both]).facts()}
    found |= _judged(their_grades, "against")
    # Greedy answers are no sample, and their log-ratio is no KL.
    if same_words(codec, start.codec) and config.temperature > 0:
        found["kl_per_answer"] = policy_kl(
            start.policy, other.policy, ours.answers, config.micro_batch_tokens, temperature=config.temperature
        )
    return found, Graded(answers=theirs, scores=their_scores)


def policy_kl(
    policy: Policy, other: Policy, answers: Sequence[Completion], budget: int, *, temperature: float = 1.0
) -> float:
    """Nats per answer between two policies of one tokenizer, on answers that the first one gave at `temperature`."""
    numbers = list(range(len(answers)))

    def logprobs(given: Policy) -> Tensor:
        of = Policy(given.model, stack=given.stack, temperature=temperature, packing=given.trunk.packing)

        def at(batch: TokenBatch) -> Tensor:
            return of(moved(batch, of.device)).logprobs

        return over_answers(at, answers, numbers, budget)

    return kl_per_answer(logprobs(policy), logprobs(other), [len(answer.tokens) for answer in answers])


def _shown(value: object) -> str:
    if isinstance(value, dict) and "interval" in value:
        low, high = value["interval"]
        return f"{value['value']:.3f}  ({low:.3f} to {high:.3f}, n = {value['count']})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
