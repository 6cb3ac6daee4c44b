"""The demo's verdict: base, SFT, PPO and DPO on held-out prompts, by fresh samples, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from posttrain.console import Console, Silent
from posttrain.measures.answered import Answered, facts_of
from posttrain.measures.shares import Share, median_length, share, stopped_share, win_rate
from posttrain.ops.statistics import Interval, bootstrap_mean
from posttrain.recipes import setup
from posttrain.recipes.evaluate import policy_kl
from posttrain.run.evaluations import keep_evaluation
from posttrain.types import Completion, Message, PromptRecord, SamplingSpec
from posttrain.workflows.world.annotator import Agreement
from posttrain.workflows.world.generate import Row, Split
from posttrain.workflows.world.gold import exact_match, gold_score
from posttrain.workflows.world.templates import FAMILIES

MODELS = ("base", "sft", "ppo", "dpo")
KNOWN: Split = "held_out_combination"
UNSEEN: Split = "held_out_template"
BUDGET = 16_384
GOLD = "the hidden gold score"
BEFORE_AND_AFTER = "the same prompts before and after, fresh samples"
Rows = Mapping[Split, Sequence[Row]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One model on one split. `fresh`: N samples, one a prompt; `gold`: their scores, float [N].

    `exact` is their exact match by family, `greedy` that of the likeliest answers. `kl` is nats per answer against SFT.
    """

    fresh: Sequence[Completion]
    exact: Mapping[str, Share]
    greedy: Mapping[str, Share]
    gold: Tensor
    gold_interval: Interval
    stopped: Share
    median_length: float
    kl: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Every model on every split; `wins` and `length_ratio` are against SFT on the known templates."""

    rows: Rows
    judged: Mapping[str, Mapping[Split, Judged]]
    wins: Mapping[str, Share]
    length_ratio: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The outcome as tables, sentences, Markdown and plain facts."""

    tables: Sequence[tuple[str, Sequence[Mapping[str, object]]]]
    sentences: Sequence[str]
    markdown: str
    facts: Mapping[str, object]


def compare(runs: Path, rows: Rows, *, seed: int, longest: int) -> Outcome:
    """Samples every model afresh on the same held-out prompts, and judges by the hidden gold score."""
    where = setup.machine()
    silent = Console(Silent())
    starts: dict[str, setup.Start] = {}
    for name in MODELS:
        codec = setup.load_codec(str(runs / name), None, silent)
        starts[name] = setup.load_start(str(runs / name), codec, where, silent)
    judged: dict[str, dict[Split, Judged]] = {}
    for name, start in starts.items():
        judged[name] = {}
        for split, part in rows.items():
            judged[name][split] = _judge(start, starts["sft"], part, seed=seed, longest=longest)
    reference = judged["sft"][KNOWN]
    return Outcome(
        rows=rows,
        judged=judged,
        wins={name: win_rate(judged[name][KNOWN].gold, reference.gold) for name in MODELS if name != "sft"},
        length_ratio={name: judged[name][KNOWN].median_length / max(1.0, reference.median_length) for name in MODELS},
    )


def _judge(start: setup.Start, against: setup.Start, rows: Sequence[Row], *, seed: int, longest: int) -> Judged:
    prompts = start.codec.prompts([_record(number, row) for number, row in enumerate(rows)])
    answer = setup.sampler(start.policy, start.codec, start.context, setup.machine())
    # A round of its own: no sample of the evaluation was drawn in training.
    fresh = answer(prompts, SamplingSpec(max_new_tokens=longest, seed=seed, round=1_000_000))
    likeliest = answer(prompts, SamplingSpec(max_new_tokens=longest, temperature=0.0))
    gold = torch.tensor(
        [gold_score(row.columns(), done.text, ended=done.stopped) for row, done in zip(rows, fresh, strict=True)]
    )
    return Judged(
        fresh=fresh,
        exact=_exact(rows, fresh),
        greedy=_exact(rows, likeliest),
        gold=gold,
        gold_interval=bootstrap_mean(gold),
        stopped=stopped_share(fresh),
        median_length=median_length(fresh),
        kl=0.0 if start is against else policy_kl(start.policy, against.policy, fresh, BUDGET),
    )


def _record(number: int, row: Row) -> PromptRecord:
    message = Message(role="user", content=row.prompt)
    return PromptRecord(id=f"evaluation {row.split} {number}", messages=(message,), columns=row.columns())


def _exact(rows: Sequence[Row], answers: Sequence[Completion]) -> dict[str, Share]:
    found: dict[str, Share] = {}
    for family in FAMILIES:
        hits = [
            exact_match(row.columns(), done.text, ended=done.stopped)
            for row, done in zip(rows, answers, strict=True)
            if row.family == family
        ]
        found[family] = share(sum(hits), len(hits))
    return found


def keep(runs: Path, outcome: Outcome, *, seed: int, longest: int) -> None:
    """Keeps what was found of each model with its run, for its report; the judge is the hidden gold score."""
    for name, splits in outcome.judged.items():
        for split, judged in splits.items():
            against = None if name == "sft" else outcome.judged["sft"][split]
            identity: dict[str, object] = {
                "by": "demo",
                "against": None if against is None else str(runs / "sft"),
                "judges": [GOLD],
                "data": [f"{split}.jsonl"],
                "settings": {"max_new_tokens": longest, "temperature": 1.0, "seed": seed},
            }
            measures = {} if name in ("base", "sft") else {"kl_per_answer": judged.kl}
            rows = _answered(outcome.rows[split], judged, against)
            with suppress(OSError):
                keep_evaluation(str(runs / name), identity, {"measures": measures, **facts_of(rows)})


def _answered(rows: Sequence[Row], judged: Judged, against: Judged | None) -> list[Answered]:
    """What was found of each prompt."""
    return [
        Answered(
            prompt=row.prompt,
            answer=done.text,
            stopped=done.stopped,
            tokens=len(done.tokens),
            score=float(judged.gold[place]),
            against=None if against is None else against.fresh[place].text,
            against_stopped=None if against is None else against.fresh[place].stopped,
            against_score=None if against is None else float(against.gold[place]),
            worth={"exact_match": float(exact_match(row.columns(), done.text, ended=done.stopped))},
        )
        for place, (row, done) in enumerate(zip(rows, judged.fresh, strict=True))
    ]


def summary(
    outcome: Outcome, *, accuracy: Mapping[str, object], noise: Agreement, seconds: Mapping[str, float]
) -> Summary:
    """What the terminal, `results.md` and `results.json` say, all from the same numbers."""
    tables = [
        (
            "exact match on held-out instructions: known templates, fresh samples",
            _exact_rows(outcome, KNOWN, greedy=False),
        ),
        ("the same, likeliest answers", _exact_rows(outcome, KNOWN, greedy=True)),
        ("exact match on a template never finetuned on, fresh samples", _exact_rows(outcome, UNSEEN, greedy=False)),
        ("against SFT on the same held-out prompts, fresh samples (KL in nats per answer)", _preference_rows(outcome)),
        (BEFORE_AND_AFTER, _before_and_after(outcome)),
    ]
    sentences = _sentences(accuracy, noise)
    parts = [f"## {title}\n\n{markdown_table(rows)}" for title, rows in tables]
    time = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items() if value >= 1)
    markdown = "# Demo\n\n" + "\n\n".join(parts) + "\n\n" + "\n".join(f"- {line}" for line in [*sentences, time]) + "\n"
    facts = {
        "tables": {title: list(rows) for title, rows in tables},
        "reward": _reward_facts(accuracy, noise),
        "seconds": dict(seconds),
    }
    return Summary(tables=tables, sentences=[*sentences, time], markdown=markdown, facts=facts)


def _exact_rows(outcome: Outcome, split: Split, *, greedy: bool) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name in MODELS:
        judged = outcome.judged[name][split]
        shares = judged.greedy if greedy else judged.exact
        rows.append({"model": name, **{family: round(part.value, 3) for family, part in shares.items()}})
    return rows


def _before_and_after(outcome: Outcome) -> list[dict[str, object]]:
    """One held-out prompt of each family with every model's answer."""
    rows = list(outcome.rows[KNOWN])
    chosen = [next(place for place, row in enumerate(rows) if row.family == family) for family in FAMILIES]
    return [
        {"prompt": rows[place].prompt, **{name: outcome.judged[name][KNOWN].fresh[place].text for name in MODELS}}
        for place in chosen
    ]


def _preference_rows(outcome: Outcome) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name in MODELS:
        judged = outcome.judged[name][KNOWN]
        low, high = judged.gold_interval
        wins = outcome.wins.get(name)
        rows.append(
            {
                "model": name,
                "gold": f"{float(judged.gold.mean()):.3f} ({low:.3f} to {high:.3f})",
                "wins/SFT": ""
                if wins is None
                else f"{wins.value:.3f} ({wins.interval[0]:.3f} to {wins.interval[1]:.3f})",
                "KL": "" if name in ("base", "sft") else round(judged.kl, 2),
                "length/SFT": round(outcome.length_ratio[name], 2),
                "ended": round(judged.stopped.value, 3),
                "prompts": len(judged.gold),
            }
        )
    return rows


def _reward_facts(accuracy: Mapping[str, object], noise: Agreement) -> dict[str, object]:
    value = float(str(accuracy["value"]))
    return {
        "accuracy": dict(accuracy),
        "ceiling": noise.gold,
        # Labels that the gold itself cannot tell apart leave nothing to learn.
        "share_of_ceiling": (value - 0.5) / (noise.gold - 0.5) if noise.gold > 0.5 else 0.0,
        "between_two_annotators": noise.between,
    }


def _sentences(accuracy: Mapping[str, object], noise: Agreement) -> list[str]:
    facts = _reward_facts(accuracy, noise)
    return [
        f"reward model: accuracy {accuracy['value']:.3f} on {accuracy['count']:,} held-out pairs; the hidden gold "
        f"itself reaches {noise.gold:.3f} (the ceiling), so {facts['share_of_ceiling']:.2f} of what can be learned",
        "rankings are simulated, and of writing prompts only: a hidden gold score with Bradley-Terry noise, which no "
        "model reads",
    ]


def markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows under their keys as a table in Markdown; there is at least one."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)
