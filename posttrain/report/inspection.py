"""What the page of a report carries of the rollouts that a run kept: a chosen few, whole, with their exact numbers.

At most 64, over all steps, and no more than fits: an answer of thousands of tokens leaves room for fewer others.
"""

from __future__ import annotations

import base64
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import orjson
import pyarrow as pa

from posttrain.data.arrow import ArrowArray
from posttrain.errors import DataError, ModelError, Problem
from posttrain.records import JSON
from posttrain.report.inspected import TOP_OF, Brief, Inspected, Row, of_the_answer, opened, per_token, read_from
from posttrain.report.quantities import quantities_of, shown_first
from posttrain.report.reading import Read
from posttrain.text.pieces import alone

if TYPE_CHECKING:
    from posttrain.text.tokenizer import Tokenizer

MOST_ROLLOUTS, MOST_STEPS = 64, 12
MOST_BYTES = 3_000_000
"""Of all rollouts of a page together, as they stand in it."""
_LARGEST_SHARE = 4  # a rollout that would take more than one part in so many leaves its place to others
_SEED = 0
_TYPES = {pa.float32(): np.float32, pa.float64(): np.float64, pa.float16(): np.float32}


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """A rollout that the page carries, and as what: `first`, `last`, `best`, `worst`, `random`."""

    place: int
    brief: Brief
    why: tuple[str, ...]


def inspection(files: Sequence[Inspected], run: Read) -> dict[str, JSON]:
    """What the page carries of some files, of which there is at least one. Raises DataError for a damaged one."""
    chosen = _spaced(files, MOST_STEPS)
    picks = {file.path: picked(file.briefs, MOST_ROLLOUTS // len(chosen)) for file in chosen}
    steps, long = _within(chosen, picks)
    return {
        **heading(files),
        "live": False,
        "steps": cast("list[JSON]", steps),
        "pieces": cast("dict[str, JSON]", _pieces_of(run, chosen, steps)),
        "of": {"steps": len(files), "rollouts": sum(len(file.briefs) for file in files)},
        "too_long": long,
    }


def files_of(run: Read) -> tuple[list[Inspected], list[Problem]]:
    """The inspector's files of a run that hold something, in the order of their steps, and what is damaged."""
    fallback = _arithmetic(run.settings)
    files: list[Inspected] = []
    problems: list[Problem] = []
    for path in run.inspected:
        try:
            file = opened(path, fallback)
            if file.briefs:
                files.append(file)
        except DataError as error:
            problems += error.problems
    return files, problems


def heading(files: Sequence[Inspected]) -> dict[str, JSON]:
    """What the page knows of all rollouts of a run: method and quantities, those of one file too.

    A round that is not done lacks what its updates made of it.
    """
    method = files[-1].method
    shown = quantities_of(method, [*{name: None for file in files for name in file.columns}])
    return {
        "format": 1,
        "method": method,
        "quantities": [quantity.facts() for quantity in shown],
        "shown_first": shown_first(method, shown),
    }


def picked(briefs: Sequence[Brief], most: int) -> list[Picked]:
    """At most `most` rollouts of a file: its first and last, best and worst, and others drawn with a fixed seed."""
    order = list(range(len(briefs)))
    scored = sorted(
        (place for place in order if briefs[place].score is not None), key=lambda place: _score(briefs[place])
    )
    drawn = random.Random(_SEED).sample(order, len(order))
    drawn.sort(key=lambda place: not briefs[place].alternatives)  # those that show more come first
    share = max(1, most // 5)
    wanted = {
        "best": scored[::-1][:share],
        "worst": scored[:share],
        "first": order[:1],
        "random": drawn,
        "last": order[-1:],
    }
    why: dict[int, list[str]] = {}
    for name in ("best", "worst", "first", "last", "random"):
        for place in wanted[name]:
            if place in why and name != "random":
                why[place].append(name)
            elif place not in why and len(why) < most:
                why[place] = [name]
    return [Picked(place=place, brief=briefs[place], why=tuple(why[place])) for place in sorted(why)]


def _score(brief: Brief) -> float:
    return 0.0 if brief.score is None else brief.score


def _spaced(files: Sequence[Inspected], most: int) -> list[Inspected]:
    """At most so many of the files, the first and the last among them, evenly apart."""
    if len(files) <= most:
        return list(files)
    return [files[round(place * (len(files) - 1) / (most - 1))] for place in range(most)]


def _within(files: Sequence[Inspected], picks: Mapping[Path, Sequence[Picked]]) -> tuple[list[dict[str, Any]], int]:
    """The steps with those of their rollouts that fit in the page, and how many were too long for it.

    Each step in turn gets one more, so that none takes the room of the others; without alternatives where these
    would leave hardly any.
    """
    full = _filled(files, picks, tops=True)
    lean = _filled(files, picks, tops=False) if full[1] > sum(map(len, picks.values())) // 2 else full
    rollouts, left = lean if lean[1] < full[1] else full
    steps = [
        {
            "step": file.step,
            "of": len(file.briefs),
            "settings": dict(file.settings),
            "rollouts": [rollout for _, rollout in sorted(rollouts[file.path].items())],
        }
        for file in files
    ]
    return [step for step in steps if step["rollouts"]], left


def _filled(
    files: Sequence[Inspected], picks: Mapping[Path, Sequence[Picked]], *, tops: bool
) -> tuple[dict[Path, dict[int, dict[str, JSON]]], int]:
    found: dict[Path, dict[int, dict[str, JSON]]] = {file.path: {} for file in files}
    room, left = MOST_BYTES, 0
    waiting = {file.path: list(_by_kind(picks[file.path])) for file in files}
    while any(waiting.values()):
        for file in files:
            if not waiting[file.path]:
                continue
            pick = waiting[file.path].pop(0)
            rollout: dict[str, JSON] = {**whole(file, pick.place, tops=tops), "picked": [*pick.why]}
            size = len(orjson.dumps(rollout))
            if size > min(room, MOST_BYTES // _LARGEST_SHARE):
                left += 1
                continue
            room -= size
            found[file.path][pick.place] = rollout
    return found, left


def _by_kind(picks: Iterable[Picked]) -> list[Picked]:
    """The best and the worst before the others: where room is short they are what is looked for."""
    order = ("best", "worst", "first", "last", "random")
    return sorted(picks, key=lambda pick: order.index(pick.why[0]))


# --- one rollout ------------------------------------------------------------------------------------------------------


def whole(file: Inspected, place: int, *, tops: bool = True) -> dict[str, JSON]:
    """A rollout with all its numbers. Raises DataError for a file that cannot be read."""
    brief = file.briefs[place]
    with read_from(file.path):
        rows = file.rows(brief.first, brief.count)
        answers = [_answer(row, brief.first + number, tops=tops) for number, row in enumerate(rows)]
        return {
            **in_brief(brief, place),
            "prompt": packed(rows[0]["prompt_tokens"].values),
            "answers": [*sorted(answers, key=_rank)],
            "group": cast("JSON", _group(file, brief)),
        }


def in_brief(brief: Brief, place: int) -> dict[str, JSON]:
    """A rollout as a list of rollouts shows it; `row` is its place among them."""
    return {
        "row": place,
        "prompt_id": brief.prompt_id,
        "score": brief.score,
        "length": brief.length,
    }


def packed(values: ArrowArray) -> list[JSON]:
    """Numbers of an array with their type, as they stand in memory: `["float32", BASE64]`, lowest byte first."""
    kind = values.type
    if pa.types.is_floating(kind):
        numbers = values.to_numpy(zero_copy_only=False).astype(_TYPES[kind], copy=False)
    elif pa.types.is_boolean(kind):
        numbers = values.to_numpy(zero_copy_only=False).astype(np.uint8)
    else:
        numbers = values.to_numpy(zero_copy_only=False).astype(np.int32)
    little = numbers.astype(numbers.dtype.newbyteorder("<"), copy=False)
    return [str(numbers.dtype), base64.b64encode(little.tobytes()).decode()]


def _answer(row: Row, number: int, *, tops: bool) -> dict[str, JSON]:
    found: dict[str, JSON] = {
        "row": number,
        "answer": row["answer"].as_py() if "answer" in row else "",
        "tokens": packed(row["tokens"].values),
        "columns": {name: packed(value.values) for name, value in per_token(row).items()},
        "numbers": {name: packed(pa.array([value.as_py()], value.type)) for name, value in of_the_answer(row).items()},
    }
    found |= {name: row[name].as_py() for name in ("sample", "stopped", "role", "rank") if name in row}
    if tops:
        found["tops"] = {name: top for name in TOP_OF if (top := _top(row, name)) is not None}
    return found


def _rank(answer: Mapping[str, Any]) -> float:
    """Where an answer stands in its ranking, the best first; those that nobody ranked come last."""
    rank = answer.get("rank", 0)
    return math.inf if rank is None else rank


def _top(row: Row, name: str) -> JSON:
    """The alternatives of each token by a model, one after another; None where the file has none."""
    ids, logprobs = row.get(f"{name}_top"), row.get(f"{name}_top_logprobs")
    if ids is None or logprobs is None or not ids.is_valid or not logprobs.is_valid or not len(ids):
        return None
    return {
        "each": len(ids[0]),
        "tokens": packed(ids.values.flatten()),
        "logprobs": packed(logprobs.values.flatten()),
    }


def _group(file: Inspected, brief: Brief) -> dict[str, Any] | None:
    """What all answers to the prompt earned in that round, where that is what an advantage is compared with.

    None for what is not finite.
    """
    if file.settings.get("baseline") not in ("rloo", "group") or "rewards" not in file.columns:
        return None
    first, end = brief.group
    rows = file.rows(first, end - first, ["rewards"])
    totals = [float(np.sum(row["rewards"].values.to_numpy(zero_copy_only=False), dtype=np.float64)) for row in rows]
    return {"totals": [total if math.isfinite(total) else None for total in totals], "own": brief.first - first}


# --- what files of the first version do not say ---------------------------------------------------------------------


def _arithmetic(settings: Mapping[str, Any]) -> dict[str, JSON]:
    """The settings of a run of PPO under the names that the inspector's files have for them."""
    names = {"form": "reward_form", **{name: name for name in ("gamma", "lam", "kl_in", "whiten", "baseline", "clip")}}
    found: dict[str, JSON] = {name: settings[given] for name, given in names.items() if given in settings}
    beta = settings.get("beta")
    if isinstance(beta, dict) and beta.get("target") is None:
        found["beta"] = beta.get("coef")
    return found


def _pieces_of(run: Read, files: Sequence[Inspected], steps: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The text of every token that is shown; of files that do not have it, by the run's tokenizer if there is one."""
    needed = {int(token) for step in steps for rollout in step["rollouts"] for token in _tokens(rollout)}
    known = {token: text for file in files for token, text in file.pieces.items()}
    if not known:
        known = spelled(needed, tokenizers_of(run))
    return {str(token): known[token] for token in sorted(needed) if token in known}


def texts_of(rollout: Mapping[str, Any], file: Inspected, folders: Sequence[Path]) -> dict[str, JSON]:
    """The text of every token of a rollout, by its file, or else by the first tokenizer in some folders."""
    needed = {int(token) for token in _tokens(rollout)}
    known = file.pieces or spelled(needed, folders)
    return {str(token): known[token] for token in sorted(needed) if token in known}


def spelled(tokens: Iterable[int], folders: Sequence[Path]) -> dict[int, str]:
    """The texts of tokens by the first tokenizer in these folders; none where there is none."""
    for folder in folders:
        if (folder / "tokenizer.json").is_file():
            with suppress(ModelError):
                words = _tokenizer(folder)
                return {token: alone(words, token) for token in tokens}
    return {}


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Tokenizer:
    return import_module("posttrain.text.tokenizer").load_tokenizer(folder)


def tokenizers_of(run: Read) -> list[Path]:
    """Where the tokenizer of a run may be: in its folder, once it is done, or in the model that it started from."""
    return [run.path, Path(str(run.settings.get("model", "")))]


def _tokens(rollout: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.int32]]:
    arrays: list[Any] = [rollout["prompt"]]
    for answer in rollout["answers"]:
        arrays += [answer["tokens"], *(top["tokens"] for top in answer.get("tops", {}).values())]
    parts = [np.frombuffer(base64.b64decode(array[1]), dtype=np.int32) for array in arrays]
    return np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.int32)
