"""The folder of a loop: whose it is, where everything of a round stands, and which prompts are held out in all rounds.

Nothing but files says how far a loop is: what is there, whole, is done.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from posttrain.config import RLHFConfig, dump, load_config, share
from posttrain.console import Console
from posttrain.counted import counted
from posttrain.data.split import held_out, prompt_key
from posttrain.errors import DataError, Problem, RunExists
from posttrain.recipes.rows import read_rows
from posttrain.run.lock import FolderLock
from posttrain.run.record import write_whole
from posttrain.run.same import changed_lines
from posttrain.types import PromptRecord

SETTINGS, TABLE = "loop.yaml", "rounds.md"
_GONE = "removed.part"
# With these a loop may go on: they say when and how long, not what is learnt of what.
_MAY_CHANGE = frozenset(
    {"rounds", "wait", "serve", "rank.host", "rank.port", "rank.token", "rank.guidelines", "rank.lock"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The files and run folders of one round, in the order in which they are made."""

    number: int
    folder: Path

    @property
    def prompts(self) -> Path:
        """The prompts that are asked."""
        return self.folder / "prompts.jsonl"

    @property
    def trained_on(self) -> Path:
        """The prompts that PPO trains on: none that is held out, and none of an audit item."""
        return self.folder / "policy_prompts.jsonl"

    @property
    def pool(self) -> Path:
        """The answers of the policy as it stood at the beginning."""
        return self.folder / "pool.jsonl"

    @property
    def ranked(self) -> Path:
        """The folder of the rankings so far. Where it stands the waiting is over; later rankings are of the next round.

        What people rank while models train would otherwise change the data of a run that goes on.
        """
        return self.folder / "rankings"

    @property
    def rankings(self) -> Path:
        """Those that are trained on."""
        return self.ranked / "rankings.jsonl"

    @property
    def held_rankings(self) -> Path:
        """Those of held-out prompts; no file where none of them says that one answer is better."""
        return self.ranked / "rankings.held_out.jsonl"

    @property
    def audit_rankings(self) -> Path:
        """Those of audit items; no file where none of them says that one answer is better."""
        return self.ranked / "rankings.audit.jsonl"

    @property
    def reward(self) -> Path:
        """The run of the reward model."""
        return self.folder / "reward"

    @property
    def policy(self) -> Path:
        """The run of the policy."""
        return self.folder / "policy"

    @property
    def compared(self) -> Path:
        """The comparisons of the policy with others, a file each."""
        return self.folder / "eval"

    @property
    def facts(self) -> Path:
        """What the round came to; the last of its files."""
        return self.folder / "eval.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopFolder:
    """The folder of a loop."""

    path: Path

    @property
    def prompts(self) -> Path:
        """The prompts that policies are trained on."""
        return self.path / "prompts" / "train.jsonl"

    @property
    def held_prompts(self) -> Path:
        """The prompts that nothing is trained on."""
        return self.path / "prompts" / "held_out.jsonl"

    def round(self, number: int) -> Round:
        """The round of a number, from 1."""
        return Round(number=number, folder=self.path / f"round-{number}")

    def name(self, path: Path | str) -> str:
        """A path as it is written down: within the folder, so that a loop that was moved reads the same."""
        inside = Path(path).is_relative_to(self.path)
        return str(Path(path).relative_to(self.path)) if inside else str(path)


def claim(config: RLHFConfig, *, fresh: bool) -> FolderLock:
    """The lock on the folder, in which this loop begins or goes on.

    `fresh` removes the rounds of an earlier loop; the ranking store stays, which holds the work of people. Raises
    RunExists for a folder that no loop wrote, and for one of another loop, with the difference.
    """
    path = Path(config.out)
    names = sorted(item.name for item in path.iterdir()) if path.is_dir() else []
    strangers = [name for name in names if name != "run" and not name.startswith("feedback.db")]
    if path.is_file() or (strangers and SETTINGS not in names):
        what = f"{path} holds files that no loop wrote" if path.is_dir() else f"{path} is a file"
        raise RunExists(f"{what}\n  fix: give another --out")
    lock = FolderLock.take(path)
    try:
        shutil.rmtree(path / _GONE, ignore_errors=True)
        if fresh:
            _clear(path)
        _refuse_another(path / SETTINGS, config)
        write_whole(path / SETTINGS, dump(config))
    except BaseException:
        lock.release()
        raise
    return lock


def _clear(path: Path) -> None:
    """Removes what loops write, the last round first: a kill on the way leaves a loop of fewer rounds, none torn.

    What says that there is a loop goes last; without it the rest would be a stranger's.
    """
    gone = path / _GONE
    gone.mkdir(exist_ok=True)
    numbered = {folder: folder.name.removeprefix("round-") for folder in path.glob("round-*")}
    rounds = sorted(
        (folder for folder, name in numbered.items() if name.isdecimal()), key=lambda folder: -int(numbered[folder])
    )
    for folder in [*rounds, path / "prompts"]:
        if folder.is_dir():
            folder.rename(gone / folder.name)
    shutil.rmtree(gone, ignore_errors=True)
    for name in (TABLE, "report.html", SETTINGS):
        (path / name).unlink(missing_ok=True)


def _refuse_another(file: Path, config: RLHFConfig) -> None:
    if not file.is_file():
        return
    lines = changed_lines(load_config(RLHFConfig, file, {}), config, but=_MAY_CHANGE)
    if lines:
        shown = "\n".join(f"    {line}" for line in lines)
        fix = "fix: give another --out, or --fresh to remove those rounds; rankings stay"
        raise RunExists(f"{file.parent} holds another loop; what differs (there -> here):\n{shown}\n  {fix}")


# --- prompts ------------------------------------------------------------------------------------------------------


def split_prompts(config: RLHFConfig, folder: LoopFolder, console: Console) -> list[PromptRecord]:
    """Every prompt, those to train on first; both parts are written down at the first start.

    Which are held out goes by the words of a prompt and the seed alone. Raises DataError where either part is empty,
    and for text to continue, whose continuations are no answers to rank; RunExists where the loop began with others.
    """
    records = [record for part in read_rows(config.prompts, ("prompt",), console) for record in part.of(PromptRecord)]
    texts = [record for record in records if record.messages is None]
    if texts:
        what = f"{counted(len(texts), 'row', 'hold')} text to continue; answers to messages are ranked"
        raise DataError([Problem(place=texts[0].id, what=what, fix='give rows with "prompt" or "messages"')])
    mask = held_out(
        np.array([prompt_key(record) for record in records], np.uint64), share(config.held_out), config.seed
    )
    train = [record for record, held in zip(records, mask, strict=True) if not held]
    apart = [record for record, held in zip(records, mask, strict=True) if held]
    for found, what in ((train, "leaves none to train on"), (apart, "holds none out to measure with")):
        if not found:
            of = f"held_out {config.held_out} of {counted(len(records), 'prompt')}"
            raise DataError([Problem(place="", what=f"{of} {what}", fix="give more prompts, or another share")])
    for path, part in ((folder.prompts, train), (folder.held_prompts, apart)):
        rows = [prompt_row(record) for record in part]
        path.parent.mkdir(exist_ok=True)
        if not path.is_file():
            write_rows_whole(path, rows)
        elif read_json_rows(path) != rows:
            what = f"{path} holds other prompts than there are now: the loop began with those"
            raise RunExists(f"{what}\n  fix: give the prompts as they were, another --out, or --fresh")
    console.say(f"prompts: {len(train):,} to train on; {len(apart):,} held out in all rounds, by prompt")
    return [*train, *apart]


def ask(config: RLHFConfig, folder: LoopFolder, current: Round, records: Sequence[PromptRecord]) -> None:
    """Writes down which prompts a round asks: those asked least in the rounds before, by lot where they are equal."""
    if current.prompts.is_file():
        return
    rows = [prompt_row(record) for record in records]
    asked = Counter(
        json.dumps(row["prompt"])
        for number in range(1, current.number)
        for row in read_json_rows(folder.round(number).prompts)
    )
    lots = random.Random(f"asked {config.seed} {current.number}")
    order = sorted(range(len(rows)), key=lambda place: (asked[json.dumps(rows[place]["prompt"])], lots.random()))
    chosen = sorted(order[: config.ask])
    current.folder.mkdir(exist_ok=True)
    write_rows_whole(current.prompts, [rows[place] for place in chosen])


def prompt_row(record: PromptRecord) -> dict[str, object]:
    """A prompt of messages as a row that is read as the same prompt: its own columns, its id and its messages."""
    messages = [{"role": message.role, "content": message.content} for message in record.messages or ()]
    return {**record.columns, "id": record.id, "prompt": messages}


def write_rows_whole(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Writes JSON lines so that there is all of them or no file."""
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_json_rows(path: Path) -> list[dict[str, object]]:
    """The rows of a file that `write_rows_whole` wrote."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
