"""The rankings of a round: its answers go into the store, people or simulated annotators rank them, and it is waited.

What is trained on is written down when there is enough of it: all rankings of the store so far, but those of audit
items, apart by whether their prompt is held out.
"""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from math import ceil, isfinite
from pathlib import Path
from typing import cast

from posttrain.config import DataItem, EvalConfig, RankConfig, RLHFConfig, SimulatedAnnotator, share
from posttrain.console import Console
from posttrain.counted import counted
from posttrain.data import feedback_db
from posttrain.data.readers import open_data
from posttrain.data.split import prompt_key
from posttrain.errors import ConfigError, DataError, Interrupted, Problem
from posttrain.feedback.assigning import Rules
from posttrain.feedback.exporting import export, has_pair
from posttrain.feedback.kept import kept_settings
from posttrain.feedback.ledger import Ledger
from posttrain.feedback.mirror import Mirror
from posttrain.feedback.pool import is_audit, pool_of
from posttrain.feedback.simulated import Annotator, annotate
from posttrain.feedback.standing import Standing
from posttrain.recipes.text_scores import Answered, scores_of
from posttrain.types import Message, PromptRecord, Role
from posttrain.workflows.loop_folder import Round, read_json_rows, write_rows_whole
from posttrain.workflows.ranking import Page, page_of

LOOK_EVERY = 1.0
"""Seconds between two looks at the store while people rank."""
_TIED = "no two answers to train on are ranked differently yet"
_MOST_PEOPLE = 2  # who are asked for one item, by the rules
_ROUNDING = 1e-9  # a tenth of 30 is a little more than 3 in floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a round is ranked: `items`, those that somebody ranked, skipped or could not judge, and all rankings."""

    items: int
    seen: int
    rankings: int

    def __str__(self) -> str:
        return (
            f"{self.seen:,} of {counted(self.items, 'prompt')} ranked or passed on, {counted(self.rankings, 'ranking')}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The ranking store of a loop, and its prompts by what they ask."""

    config: RLHFConfig
    store: Path
    prompts: Mapping[int, PromptRecord]
    console: Console

    @staticmethod
    def of_loop(config: RLHFConfig, prompts: Sequence[PromptRecord], console: Console) -> Ranking:
        """The ranking of a loop. Raises DataError for a file in the place of the store that is none."""
        store = Path(config.db) if config.db is not None else Path(config.out) / "feedback.db"
        if store.exists():
            feedback_db.version_of(store)
        return Ranking(
            config=config, store=store, prompts={prompt_key(each): each for each in prompts}, console=console
        )

    def of(self, current: Round, reward: Path | None) -> None:
        """The round's answers are ranked enough, and what is to be learnt from is written down.

        `reward`: the reward model of the round before, None in the first.
        """
        judge = str(reward) if self.config.choose == "uncertain" and reward is not None else None
        # A page of another process asks the reward model itself.
        here = judge if self.config.serve or self.config.annotator is not None else None
        settings = self.config.rank.complete(
            RankConfig, pool=(DataItem(path=str(current.pool)),), db=str(self.store), seed=self.config.seed,
            choose="random" if here is None else "uncertain", reward=here,
        )  # fmt: skip
        asked = pool_of(open_data(current.pool, "pool"), seed=self.config.seed, audit=0.0)
        items = frozenset(item.id for item in asked.items)
        page = page_of(settings, console=self.console, first=sorted(items))
        if self.config.annotator is not None:
            self._simulate(self.config.annotator, page, items)
        else:
            self._wait_for_people(page, items, judge)
        self._write(current)

    # --- waiting --------------------------------------------------------------------------------------------------

    def _simulate(self, simulated: SimulatedAnnotator, page: Page, items: frozenset[str]) -> None:
        """Lets the simulated annotators rank. Raises ConfigError where they are done before it is enough."""
        noise = Annotator(
            scale=simulated.temperature, tie_margin=simulated.tie_margin, tie_share=simulated.tie_share,
            seed=self.config.seed,
        )  # fmt: skip
        with closing(feedback_db.connect(self.store)) as connection:
            ledger = Ledger(connection, page.options.rules)
            with ledger.transaction():
                if not self._enough(progress_of(ledger.standing, items)):
                    self._check_room(page.options.rules, items, len(simulated.names))
                asked = self._asked(ledger)
            scores = self._scores(simulated, asked)
            annotate(
                ledger, simulated.names, noise, scores, lambda: self._enough(progress_of(ledger.standing, items))
            )  # fmt: skip
            found = progress_of(ledger.standing, items)
        self.console.say(f"simulated annotators: {found}")
        if not self._reached(found):
            what = f"the simulated annotators ranked all they are given: {found}"
            fix = "a smaller number, share instead, or more names"
            raise ConfigError([Problem(place="wait.rankings", what=what, fix=fix)])

    def _asked(self, ledger: Ledger) -> dict[str, Answered]:
        """The items of the store that ask a prompt of the loop, with the columns of the prompt."""
        found: dict[str, Answered] = {}
        for item in ledger.standing.items:
            messages, answers = ledger.texts(item)
            prompt = self.prompts.get(prompt_key(_asking(messages)))
            if prompt is not None:
                texts = [str(answer["text"]) for answer in answers]
                ended = [answer.get("stopped") is not False for answer in answers]
                found[item] = Answered(prompt=prompt, texts=texts, stopped=ended)
        return found

    def _scores(self, simulated: SimulatedAnnotator, asked: Mapping[str, Answered]) -> dict[str, dict[str, float]]:
        """For each item the scores of its texts; those that a function failed on have none."""
        config = EvalConfig(
            model=self.config.model, data=(DataItem(path=str(self.store)),), judge=simulated.score,
            functions=simulated.functions,
        )  # fmt: skip
        scores = scores_of(config, list(asked.values()), console=self.console)
        return {
            item: {text: score for text, score in zip(each.texts, part.tolist(), strict=True) if isfinite(score)}
            for (item, each), part in zip(asked.items(), scores, strict=True)
        }

    def _wait_for_people(self, page: Page, items: frozenset[str], judge: str | None) -> None:
        """Looks at the store until there is enough in it. Raises Interrupted when asked to stop."""
        with closing(feedback_db.reader(self.store)) as connection:
            mirror = Mirror(connection)
            found = looked(mirror, items)
            if self._enough(found):
                return
            self._check_room(page.options.rules, items, _MOST_PEOPLE)
            self.console.say(f"waiting for rankings, {self._wanted(items)}: {found} so far")
            older = sum(not mirror.standing.rankers(item) for item in mirror.standing.items if item not in items)
            if older:
                self.console.say(f"{counted(older, 'item')} that nobody ranked before this round come after its own")
            told = False
            try:
                with self._served(page, judge):
                    while not self._enough(found):
                        if self._reached(found) and not told:
                            told = True
                            self.console.say(f"{_TIED}: {self._untied}")
                        self.console.working(f"waiting for rankings: {found}")
                        time.sleep(LOOK_EVERY)
                        found = looked(mirror, items)
            except KeyboardInterrupt:
                raise Interrupted(f"interrupted while waiting for rankings: {found}") from None
        self.console.finish(f"enough rankings: {found}")

    @contextmanager
    def _served(self, page: Page, judge: str | None) -> Generator[None]:
        """Inside, people can rank: on a page of this process, or on one that they are told how to start."""
        if not self.config.serve:
            self.console.say(f"rank with: {self._command(judge)}")
            yield
            return
        with page.served() as (_, address):
            self.console.say(f"rank at {address}")
            yield

    def _command(self, judge: str | None) -> str:
        """What people start the page with beside the loop; what else is set stands in the store, but for a token."""
        words = ["posttrain", "rank", "--db", str(self.store)]
        if judge is not None:
            words += ["--choose", "uncertain", "--reward", judge]
        given = {name: value for name, value in self.config.rank if name in self.config.rank.model_fields_set}
        for name in ("host", "port", *(("uncertain",) if judge is not None else ())):
            words += [f"--{name}", str(given[name])] if name in given else []
        return shlex.join(words)

    def _wanted(self, items: frozenset[str]) -> str:
        wait = self.config.wait
        if wait.rankings is None:
            return f"of {wait.share:.0%} of the prompts"
        alone = f" (one person gives at most {len(items):,})" if wait.rankings > len(items) else ""
        return f"{wait.rankings:,} of them{alone}"

    @property
    def _untied(self) -> str:
        """What people can do where all that they ranked are ties, or of held-out prompts and audit items."""
        return f"undo a tie on the page and rank it anew, or add answers: posttrain rank more.jsonl --db {self.store}"

    def _check_room(self, rules: Rules, items: frozenset[str], people: int) -> None:
        """Raises ConfigError where more rankings are waited for than so many people are asked for."""
        wanted, most = self.config.wait.rankings, sum(min(rules.needs(item), people) for item in items)
        if wanted is None or wanted <= most:
            return
        asked = f"{counted(len(items), 'prompt')}, {most - len(items):,} of them for two people"
        what = f"{wanted:,} rankings are waited for, and the round gives at most {most:,}: {asked}"
        fix = f"--wait.rankings {most} or less, or --fresh with a larger ask or rank.overlap"
        raise ConfigError([Problem(place="wait.rankings", what=what, fix=fix)])

    def _enough(self, found: Progress) -> bool:
        """Whether the waiting is over: as much is ranked as was asked for, and there is a pair to learn from."""
        return self._reached(found) and has_pair(
            self.store, share=share(self.config.held_out), seed=self.config.seed
        )  # fmt: skip

    def _reached(self, found: Progress) -> bool:
        wait = self.config.wait
        if wait.rankings is not None:
            return found.rankings >= wait.rankings
        return found.seen >= ceil((wait.share or 1.0) * found.items - _ROUNDING)

    def prompts_to_train_on(self, current: Round, prompts: Path) -> Path:
        """The file of the round's prompts for PPO: those in `prompts` but the ones of audit items, asked yet or not.

        It is written once, and says how many are left out. Raises DataError where none is left.
        """
        if current.trained_on.is_file():
            return current.trained_on
        with closing(feedback_db.reader(self.store)) as connection:
            kept = kept_settings(connection)
            there = connection.execute("SELECT prompt FROM items WHERE audit").fetchall()
        audits = {prompt_key(_asking(json.loads(prompt))) for (prompt,) in there}
        seed, audit = cast("int", kept["seed"]), cast("float", kept["audit"])
        rows = [(row, _asking(row["prompt"])) for row in read_json_rows(prompts)]
        left = [
            row
            for row, asked in rows
            if prompt_key(asked) not in audits and not is_audit(asked.messages or (), seed=seed, audit=audit)
        ]
        if not left:
            what = f"all {counted(len(rows), 'prompt')} to train on are audit prompts, which nothing is trained on"
            raise DataError([Problem(place="rank.audit", what=what, fix="a smaller rank.audit, and another out")])
        lost = f"{counted(len(rows) - len(left), 'prompt')} of audit items"
        self.console.say(f"{current.trained_on}: {len(left):,} of {counted(len(rows), 'prompt')}, {lost} left out")
        write_rows_whole(current.trained_on, left)
        return current.trained_on

    # --- what is learnt from --------------------------------------------------------------------------------------

    def _write(self, current: Round) -> None:
        """Writes down the rankings of the store, those of held-out prompts and of audit items apart; all or none.

        Raises DataError where those of simulated annotators leave nothing to learn; people are waited for.
        """
        part = current.ranked.with_name("rankings.part")
        shutil.rmtree(part, ignore_errors=True)
        found = export(
            self.store, part / current.rankings.name, pairs=False, share=share(self.config.held_out),
            seed=self.config.seed,
        )  # fmt: skip
        for problem in found.bad:
            self.console.say(f"left out: {problem}")
        if not found.train.pairs:
            what = f"no two answers are ranked differently in {counted(found.train.rankings, 'ranking')} to train on"
            fix = "another annotator.score or fewer ties, more prompts with ask, and another out"
            raise DataError([Problem(place=str(self.store), what=what, fix=fix)])
        apart = {"of held-out prompts": found.held_out, "of audit items": found.audit}
        told = [f"{counted(found.train.rankings, 'ranking')} to train on"]
        for name, one in apart.items():
            told.append(f"{0 if one is None else one.rankings:,} {name}")
            if one is not None and not one.pairs:  # there is nothing to be right about
                one.out.unlink()
                told[-1] += ", all of them ties"
        part.rename(current.ranked)
        self.console.say(f"{current.ranked}: {', '.join(told)}")


def looked(mirror: Mirror, items: frozenset[str]) -> Progress:
    """How far the items are ranked, with what was written meanwhile."""
    mirror.catch_up()
    return progress_of(mirror.standing, items)


def progress_of(standing: Standing, items: frozenset[str]) -> Progress:
    """How far the items are ranked."""
    people = standing.annotators()
    return Progress(
        items=len(items),
        seen=sum(any(standing.done_by(item, who) for who in people) for item in items),
        rankings=sum(len(standing.rankers(item)) for item in items),
    )


def _asking(rows: object) -> PromptRecord:
    """The messages of a row as a prompt."""
    messages = tuple(
        Message(role=cast("Role", row["role"]), content=row["content"])
        for row in cast("Sequence[Mapping[str, str]]", rows)
    )
    return PromptRecord(id="", messages=messages)
