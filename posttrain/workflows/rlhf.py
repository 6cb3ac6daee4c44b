"""The loop in one command: sample, rank, reward model, PPO or DPO, evaluation, and the next round from there.

Every stage is the command of its name, with a folder or file of its own, so that each can be looked at, or run again,
alone. What is there whole is done; a run that was stopped goes on as it would by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from posttrain.config import DataItem, DPOConfig, PPOConfig, RewardConfig, RewardItem, RLHFConfig, SampleConfig
from posttrain.config.automatic import auto_reference
from posttrain.console import Console
from posttrain.counted import counted
from posttrain.errors import Interrupted
from posttrain.recipes import setup
from posttrain.recipes.dpo import dpo
from posttrain.recipes.ppo import ppo
from posttrain.recipes.reward import reward
from posttrain.recipes.rewarding import check_rewards
from posttrain.recipes.sample import sample
from posttrain.recipes.scoring import check_policy
from posttrain.report.parts import Section, Table
from posttrain.run import Run, tidy, write_json
from posttrain.run.record import write_whole
from posttrain.types import PromptRecord
from posttrain.workflows import reporting
from posttrain.workflows.loop_folder import TABLE, LoopFolder, Round, ask, claim, read_json_rows, split_prompts
from posttrain.workflows.loop_measures import (
    Facts,
    compare,
    people_and_model,
    policy_facts,
    read_facts,
    rows_of,
    sentence,
)
from posttrain.workflows.loop_ranking import Ranking
from posttrain.workflows.outcome import markdown_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """A loop with all rounds that were asked for. `rounds`: what each came to, as its `eval.json` holds it."""

    path: Path
    rounds: tuple[Facts, ...]

    def facts(self) -> dict[str, object]:
        """The whole of it for JSON."""
        return {"out": str(self.path), "rounds": list(self.rounds)}

    @property
    def policy(self) -> Run:
        """The policy of the last round."""
        return Run(LoopFolder(path=self.path).round(len(self.rounds)).policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Going:
    """What all rounds share."""

    config: RLHFConfig
    folder: LoopFolder
    ranking: Ranking
    prompts: list[PromptRecord]
    console: Console

    def before(self, current: Round) -> str:
        """The policy as it stood before a round: the start, or that of the round before."""
        return self.config.model if current.number == 1 else str(self.folder.round(current.number - 1).policy)

    def begins_at(self, current: Round) -> str:
        """Where the policy of a round begins."""
        return self.config.model if self.config.policy_from == "start" else self.before(current)

    def say(self, current: Round, what: str) -> None:
        """Says which stage of a round begins."""
        self.console.say(f"── round {current.number} of {self.config.rounds}: {what}")


def rlhf(config: RLHFConfig, *, console: Console, fresh: bool = False) -> Loop:
    """Runs the rounds that are not done yet. The same command goes on wherever an earlier one was stopped.

    Raises RunExists for a folder of something else, and what the commands of the stages raise.
    """
    setup.quiet_libraries()
    setup.context_of(config.model)
    check_policy(config.model)
    if config.annotator is not None:
        check_rewards(config.annotator.score)
    folder = LoopFolder(path=Path(config.out))
    lock = claim(config, fresh=fresh)
    number = 1
    try:
        prompts = split_prompts(config, folder, console)
        ranking = Ranking.of_loop(config, prompts, console)
        going = _Going(config=config, folder=folder, ranking=ranking, prompts=prompts, console=console)
        for number in range(1, config.rounds + 1):
            _run(going, folder.round(number))
        return _ended(config, folder, console)
    except KeyboardInterrupt as stop:
        where = f"round {number} of {config.rounds}: the same posttrain rlhf goes on"
        raise Interrupted(f"{str(stop) or 'interrupted'}\n  in {where}") from None
    finally:
        lock.release()


def _ended(config: RLHFConfig, folder: LoopFolder, console: Console) -> Loop:
    """The rounds, shown and written down in a table."""
    rounds = tuple(read_facts(folder.round(number).facts) for number in range(1, config.rounds + 1))
    rows = rows_of(rounds)
    write_whole(folder.path / TABLE, f"# The rounds\n\n{markdown_table(rows)}\n")
    console.table(rows, f"the rounds of {folder.path}")
    _report(folder, rows, len(rounds), console)
    console.finish(f"{counted(len(rounds), 'round')} done; the policy is {folder.round(len(rounds)).policy}")
    return Loop(path=folder.path, rounds=rounds)


def _report(folder: LoopFolder, rows: Sequence[Mapping[str, object]], rounds: int, console: Console) -> None:
    """A page for each run of the loop, and one that compares its policies."""
    columns = list(rows[0])
    table = Table(columns=columns, rows=[[str(row[name]) for name in columns] for row in rows])
    first = [Section(id="rounds", title="The rounds", parts=[table])]
    of_all = [folder.round(number) for number in range(1, rounds + 1)]
    for each in of_all:
        reporting.at_end(each.reward, console)
    reporting.together([each.policy for each in of_all], folder.path, console, title=folder.path.name, first=first)


# --- one round ------------------------------------------------------------------------------------------------------


def _run(going: _Going, current: Round) -> None:
    """Every stage of a round, as far as it is not done."""
    if current.facts.is_file():
        return
    ask(going.config, going.folder, current, going.prompts)
    _sample(going, current)
    if not current.ranked.is_dir():
        going.say(current, "ranking")
        last = going.folder.round(current.number - 1).reward if current.number > 1 else None
        going.ranking.of(current, last)
    _reward(going, current)
    _policy(going, current)
    write_json(current.facts, _facts(going, current))
    going.console.say(sentence(read_facts(current.facts)))


def _sample(going: _Going, current: Round) -> None:
    if current.pool.is_file():
        return
    model, config = going.before(current), going.config
    going.say(current, f"sampling {config.sample.k} answers a prompt from {model}")
    # Another seed in each round: a prompt that is asked again gets answers of its own.
    settings = config.sample.complete(
        SampleConfig, model=model, prompts=_data(current.prompts), out=str(current.pool),
        seed=config.seed + current.number,
    )  # fmt: skip
    sample(settings, console=going.console)


def _reward(going: _Going, current: Round) -> None:
    if _is_done(current.reward):
        return
    config = going.config
    going.say(current, f"reward model from {config.model} on all rankings so far")
    settings = config.reward.complete(
        RewardConfig, model=config.model, data=_data(current.rankings), eval_data=_held(current),
        out=str(current.reward), seed=config.seed,
    )  # fmt: skip
    reward(settings, console=going.console)


def _policy(going: _Going, current: Round) -> None:
    if _is_done(current.policy):
        return
    config, start = going.config, going.begins_at(current)
    going.say(current, f"{config.method.upper()} from {start}; reference: {_reference(config, start)}")
    if config.method == "ppo":
        prompts = going.ranking.prompts_to_train_on(current, going.folder.prompts)
        by = (RewardItem(reward=str(current.reward)),)
        settings = config.ppo.complete(
            PPOConfig, model=start, reward=by, prompts=_data(prompts), out=str(current.policy), seed=config.seed,
        )  # fmt: skip
        ppo(settings, console=going.console)
        return
    settings = config.dpo.complete(
        DPOConfig, model=start, data=_data(current.rankings), eval_data=_held(current), out=str(current.policy),
        seed=config.seed,
    )  # fmt: skip
    dpo(settings, console=going.console)


def _reference(config: RLHFConfig, start: str) -> str:
    """What a round's policy is held to."""
    if config.method == "ppo":
        return start
    given = config.dpo.complete(DPOConfig, model=start, data=_data(Path(start)), out=start)
    chosen = auto_reference(given.loss)[0] if given.reference == "auto" else given.reference
    return start if chosen == "start" else chosen


def _facts(going: _Going, current: Round) -> Facts:
    """What a round came to; compared are answers to prompts that nothing was trained on."""
    folder, start, before = going.folder, going.config.model, going.before(current)
    others = {"against_start": start} | ({} if before == start else {"against_previous": before})
    found = compare(going.config, folder, current, others, going.console)
    begins = going.begins_at(current)
    return {
        "round": current.number,
        "method": going.config.method,
        "answers_from": folder.name(before),
        "policy_from": folder.name(begins),
        "reference": folder.name(_reference(going.config, begins)),
        "policy": folder.name(current.policy),
        "rankings": {
            "training": _rows(current.rankings),
            "held_out": _rows(current.held_rankings),
            "audit": _rows(current.audit_rankings),
        },
        "reward": people_and_model(going.config, current, going.console),
        "training": policy_facts(current),
        "against_start": found["against_start"],
        "against_previous": found.get("against_previous", found["against_start"]),
    }


def _is_done(run: Path) -> bool:
    """Whether a run is done, and nothing of its checkpoints is left."""
    done = Run(run).exists() and Run(run).status == "done"
    if done:
        tidy(run)
    return done


def _data(path: Path) -> tuple[DataItem, ...]:
    return (DataItem(path=str(path)),)


def _held(current: Round) -> str | None:
    """The held-out rankings; None where there are none yet."""
    return str(current.held_rankings) if current.held_rankings.is_file() else None


def _rows(path: Path) -> int:
    return len(read_json_rows(path)) if path.is_file() else 0
