"""What a round came to: the reward model beside the people who ranked, and its policy against those before it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from posttrain.config import DataItem, EvalConfig, RewardItem, RLHFConfig
from posttrain.config.rewards import Functions
from posttrain.console import Console
from posttrain.recipes.evaluate import evaluate
from posttrain.run import Run, write_json
from posttrain.workflows.loop_folder import LoopFolder, Round

Facts = dict[str, Any]
# What `eval` of a reward model understands; the other settings are of answers.
_OF_READING = ("precision", "max_length", "micro_batch_tokens", "packing")
REWARD, GOLD = "by_reward_model", "by_annotator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """What compares two policies' answers. `name` is the key of what it finds."""

    name: str
    rewards: tuple[RewardItem, ...]
    functions: Functions


def judges(config: RLHFConfig, current: Round) -> list[Judge]:
    """The round's reward model, and the score that a simulated annotator ranks by, where there is one."""
    own = Judge(name=REWARD, rewards=(RewardItem(reward=str(current.reward)),), functions=Functions())
    if config.annotator is None:
        return [own]
    return [own, Judge(name=GOLD, rewards=config.annotator.score, functions=config.annotator.functions)]


def compare(
    config: RLHFConfig, folder: LoopFolder, current: Round, others: Mapping[str, str], console: Console
) -> dict[str, Facts]:
    """For each of the `others`, by its name, what every judge finds of the round's policy against it.

    Each comparison is kept once it is made, and not made again. Answers are fresh samples to held-out prompts.
    """
    found: dict[str, Facts] = {}
    for name, other in others.items():
        found[name] = {}
        for judge in judges(config, current):
            file = current.compared / f"{name}_{judge.name}.json"
            if not file.is_file():
                console.say(f"── round {current.number}: {name.replace('_', ' ')}, {judge.name.replace('_', ' ')}")
                settings = config.eval.complete(
                    EvalConfig, model=str(current.policy), against=other, judge=judge.rewards,
                    functions=judge.functions, data=(DataItem(path=str(folder.held_prompts)),), seed=config.seed,
                )  # fmt: skip
                file.parent.mkdir(exist_ok=True)
                # An answer that a row has besides is for its columns; asked is every prompt.
                write_json(file, evaluate(settings, console=console, kinds=("prompt",)))
            found[name][judge.name] = json.loads(file.read_text(encoding="utf-8"))
    return found


def people_and_model(config: RLHFConfig, current: Round, console: Console) -> Facts:
    """The accuracy of the round's reward model on held-out rankings, beside how far people agree with each other.

    All are of strict pairs. Where two people ranked the same held-out answers `accuracy_there` is of these alone;
    otherwise people are compared on the training rankings. `audit_accuracy` is on audit items. What is not known is
    null.
    """
    cards = cast("Facts", json.loads((current.reward / "run" / "reward_card.json").read_text(encoding="utf-8")))
    held, training = (cast("Facts", cards.get(name, {})) for name in ("held_out", "training"))
    there = _some(held, "model")
    return {
        "accuracy": held.get("accuracy"),
        "people_agree": _some(held, "people") if there else _some(training, "people"),
        "people_agree_on": "held-out rankings" if there else "training rankings",
        "accuracy_there": there,
        "audit_accuracy": _on_audit(config, current, console),
    }


def _on_audit(config: RLHFConfig, current: Round, console: Console) -> Facts | None:
    """The accuracy of the reward model on audit items; None where none was ranked."""
    if not current.audit_rankings.is_file():
        return None
    data = (DataItem(path=str(current.audit_rankings)),)
    reading = {name: getattr(config.eval, name) for name in _OF_READING}
    found = evaluate(EvalConfig(model=str(current.reward), data=data, **reading), console=console)
    return cast("Facts", found["reward_card"])["accuracy"]


def _some(card: Facts, who: str) -> Facts | None:
    """The agreement of people, or the model's accuracy on their rankings, None where no two people ranked the same."""
    found = cast("Facts | None", card.get("agreement", {}).get(who))
    return found if found is not None and found["count"] else None


def policy_facts(current: Round) -> Facts:
    """What the run of the policy measured at its end."""
    return dict(Run(current.policy).results)


# --- tables -------------------------------------------------------------------------------------------------------


def rows_of(rounds: Sequence[Facts]) -> list[dict[str, object]]:
    """A row for each round, for reading."""
    return [_row(facts) for facts in rounds]


def _row(facts: Facts) -> dict[str, object]:
    reward = cast("Facts", facts["reward"])
    row: dict[str, object] = {
        "round": facts["round"],
        "rankings": facts["rankings"]["training"] + facts["rankings"]["held_out"],
        "reward accuracy": shown(reward["accuracy"]),
        "people agree": shown(reward["people_agree"]),
    }
    for name, words in (("against_start", "wins/start"), ("against_previous", "wins/previous")):
        for judge, by in ((REWARD, ""), (GOLD, ", annotator's score")):
            found = facts[name].get(judge)
            if found is not None:
                row[f"{words}{by}"] = shown(found["win_rate"])
    return row


def shown(share: Facts | None) -> str:
    """`0.640 (0.580 to 0.700)`; `not known` for what was not measured."""
    if share is None:
        return "not known"
    low, high = share.get("interval_over_prompts", share["interval"])
    return f"{share['value']:.3f} ({low:.3f} to {high:.3f})"


def sentence(facts: Facts) -> str:
    """What a round came to, in one line."""
    reward, by_model = facts["reward"], facts["against_start"][REWARD]
    gold = facts["against_start"].get(GOLD)
    more = "" if gold is None else f", {shown(gold['win_rate'])} by the annotator's own score"
    return (
        f"round {facts['round']}: reward accuracy {shown(reward['accuracy'])} where people agree "
        f"{shown(reward['people_agree'])} ({reward['people_agree_on']}); the policy wins {shown(by_model['win_rate'])} "
        f"against the start by the reward model{more}"
    )


def read_facts(path: Path) -> Facts:
    """What stands in a round's `eval.json`."""
    return cast("Facts", json.loads(path.read_text(encoding="utf-8")))
