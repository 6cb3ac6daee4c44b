"""The demo's data: plain text about the world, and instruction rows in four families, seen and held out.

The plain text holds every fact, every sum and every phrase's words, in wordings that no instruction uses. Finetuning
sees most combinations in most templates; two sets are held out from it and reported apart: combinations never asked
(in templates that were), and one template a family never used (on combinations that were asked).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from posttrain.types import JSON
from posttrain.workflows.world import lexicon, tasks, templates
from posttrain.workflows.world.tasks import Facts, Task
from posttrain.workflows.world.templates import FAMILIES, ONE_ANSWER, Family

# Sorts of plain text and of sums, with how often each is written: what is learned slowly is written more.
TEXTS = (("facts", "sums", "languages", "stories"), (35, 27, 26, 12))
SUMS = (("add", "subtract", "larger", "smaller", "two steps"), (38, 36, 6, 6, 14))

Split: TypeAlias = Literal["train", "held_out_combination", "held_out_template"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much to write. Rows are per family; a family with fewer distinct ones gives all that it has."""

    texts: int = 30_000
    train: int = 3_500
    held_out_combination: int = 300
    held_out_template: int = 200
    held_out_share: float = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An instruction with an answer. `template` counts within the family; see `Task` for the other fields."""

    family: Family
    kind: str
    template: int
    split: Split
    combination: str
    prompt: str
    answer: str
    reference: str
    words: tuple[str, ...]

    def columns(self) -> dict[str, JSON]:
        """What the gold score and the measures need to know of the row, besides the answer given to it."""
        return {
            "family": self.family,
            "kind": self.kind,
            "template": self.template,
            "split": self.split,
            "combination": self.combination,
            "reference": self.reference,
            "words": list(self.words),
        }

    def chat(self) -> dict[str, JSON]:
        """The row as a line of a chat file: `messages` and the columns."""
        return {"messages": [_turn("user", self.prompt), _turn("assistant", self.answer)], **self.columns()}

    def question(self) -> dict[str, JSON]:
        """The row as a line of a prompt file: the user's turn and the columns, without the answer."""
        return {"prompt": [_turn("user", self.prompt)], **self.columns()}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """`texts` for pretraining, and `rows` by split, families interleaved at random."""

    texts: tuple[str, ...]
    rows: Mapping[Split, tuple[Row, ...]]


def make_world(seed: int, sizes: Sizes | None = None) -> World:
    """The whole world of a seed; the same seed and sizes give the same world."""
    sizes = sizes or Sizes()
    facts = tasks.make_facts(seed)
    pools: dict[Family, list[Task]] = {
        "question": list(tasks.questions(facts)),
        "translation": list(tasks.translations()),
        "generation": list(tasks.generation()),
        "reasoning": list(tasks.reasoning()),
    }
    rows: dict[Split, list[Row]] = {"train": [], "held_out_combination": [], "held_out_template": []}
    for family in FAMILIES:
        draw = random.Random(f"rows {seed} {family}")
        seen, unseen = hold_out(pools[family], share=sizes.held_out_share, draw=draw)
        known, new = range(len(templates.TEMPLATES[family]) - 1), [len(templates.TEMPLATES[family]) - 1]
        rows["train"] += word(seen, known, count=sizes.train, split="train", draw=draw)
        rows["held_out_combination"] += word(
            unseen, known, count=sizes.held_out_combination, split="held_out_combination", draw=draw
        )
        rows["held_out_template"] += word(
            seen, new, count=sizes.held_out_template, split="held_out_template", draw=draw
        )
    for split in rows:
        random.Random(f"order {seed} {split}").shuffle(rows[split])
    return World(
        texts=tuple(write_texts(facts, sizes.texts, seed)), rows={split: tuple(found) for split, found in rows.items()}
    )


def hold_out(pool: Sequence[Task], *, share: float, draw: random.Random) -> tuple[list[Task], list[Task]]:
    """(asked in finetuning, never asked): of each kind, the same share is never asked, and at least one."""
    by_kind: defaultdict[str, list[Task]] = defaultdict(list)
    for task in {task.key: task for task in pool}.values():
        by_kind[task.kind].append(task)
    seen: list[Task] = []
    unseen: list[Task] = []
    for group in by_kind.values():
        draw.shuffle(group)
        cut = max(1, round(share * len(group)))
        unseen += group[:cut]
        seen += group[cut:]
    return seen, unseen


def word(pool: Sequence[Task], numbers: Sequence[int], *, count: int, split: Split, draw: random.Random) -> list[Row]:
    """At most `count` distinct rows, spread evenly over the kinds of task, each task in one template after another."""
    by_kind: defaultdict[str, list[tuple[Task, int]]] = defaultdict(list)
    for task in pool:
        by_kind[task.kind] += [(task, number) for number in numbers]
    for group in by_kind.values():
        draw.shuffle(group)
    rows: list[Row] = []
    while len(rows) < count and any(by_kind.values()):
        for group in by_kind.values():
            if group and len(rows) < count:
                rows.append(_row(*group.pop(), split, draw))
    return rows


def _row(task: Task, number: int, split: Split, draw: random.Random) -> Row:
    return Row(
        family=task.family,
        kind=task.kind,
        template=number,
        split=split,
        combination=task.key,
        prompt=templates.TEMPLATES[task.family][number].format(**task.fields),
        answer=task.reference or tasks.write_sentence(task.words[0], task.words[1], draw),
        reference=task.reference,
        words=task.words,
    )


def draw_rows(rows: Sequence[Row], count: int, *, seed: int) -> list[Row]:
    """`count` rows for learning or judging preferences: half generation, the families with one answer sharing the rest.

    Half and half, because rankings of one-answer prompts are mostly ties once a model is finetuned: they keep a policy
    honest, while the sentences leave something to prefer. Raises ValueError when a family has too few rows.
    """
    draw = random.Random(f"drawn {seed}")
    wanted: dict[Family, int] = {family: count // 2 // len(ONE_ANSWER) for family in ONE_ANSWER}
    wanted["generation"] = count - sum(wanted.values())
    drawn: list[Row] = []
    for family, number in wanted.items():
        pool = [row for row in rows if row.family == family]
        if len(pool) < number:
            raise ValueError(f"{number} rows of {family} are wanted, but there are {len(pool)}")
        drawn += draw.sample(pool, number)
    draw.shuffle(drawn)
    return drawn


def write_texts(facts: Facts, count: int, seed: int) -> Iterator[str]:
    """`count` short documents of plain text, of four sorts in fixed proportion."""
    draw = random.Random(f"texts {seed}")
    phrases = list(tasks.phrases())
    # Single words are few and clauses many: a third of each sort, so that every word is met often.
    short = [pair for pair in phrases if pair[0].count(" ") == 1]
    shelves = (list(lexicon.MEANINGS.items()), short, phrases)
    problems: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for kind, problem, statement in tasks.problems():
        problems[kind].append((problem, statement))
    known = list(facts.items())
    for _ in range(count):
        sort = draw.choices(*TEXTS)[0]
        if sort == "facts":
            yield " ".join(_fact(*draw.choice(known), draw) for _ in range(4))
        elif sort == "sums":
            yield " ".join(_sum(*draw.choice(problems[kind]), draw) for kind in draw.choices(*SUMS, k=4))
        elif sort == "languages":
            yield " ".join(_translation(*draw.choice(draw.choice(shelves)), draw) for _ in range(4))
        else:
            yield _story(draw)


def _fact(key: tuple[str, str], value: str, draw: random.Random) -> str:
    name, attribute = key
    others = draw.choice((templates.FACTS_BY_ATTRIBUTE[attribute], templates.FACT_DIALOGUES))
    wordings = draw.choice(((templates.FACT,), others))
    return draw.choice(wordings).format(
        name=name, attribute=attribute, value=value, article=lexicon.ARTICLES[attribute]
    )


def _sum(problem: str, statement: str, draw: random.Random) -> str:
    return f"How much is {problem}? {statement}" if draw.random() < 0.33 else statement


def _translation(english: str, chinese: str, draw: random.Random) -> str:
    return draw.choice(templates.TRANSLATIONS).format(english=english, chinese=chinese)


def _story(draw: random.Random) -> str:
    nouns = list(lexicon.ANIMALS | lexicon.PLACES | lexicon.THINGS)
    first, second = draw.choice(list(lexicon.ANIMALS)), draw.choice(nouns)
    opening = draw.choice(templates.STORY_OPENINGS).format(first=first, second=second)
    sentences = [tasks.write_sentence(first, second, draw) for _ in range(2)]
    return " ".join((opening, *sentences))


def _turn(role: str, content: str) -> JSON:
    return {"role": role, "content": content}
