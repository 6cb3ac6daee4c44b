"""Run folders with files of the token inspector that no training wrote: of every method, of any size, hostile texts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from posttrain.config import DPOConfig, PPOConfig, RewardConfig, Settings, make_config
from posttrain.ops import credit, ragged
from posttrain.records import JSON
from posttrain.run import RunWriter
from posttrain.run.inspect import Heading, file_name, lists, table_of, write

HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'>",
    "\u202etxt.exe\u2066",
    "\u0000\u001b[2J",
    "<!--",
    " {{ 7 * 7 }}",
    "<0xE2>",
    "\n\n",
    "\t",
    "",
    "שלום",
    "👩‍👩‍👧‍👦",
    "]]>",
    "\\u003c/script>",
)
WORDS = (" the", " of", " and", " rain", " falls", " when", " drops", " grow", " heavy", ".", "</s>")
PIECES: Mapping[int, str] = dict(enumerate([*HOSTILE, *WORDS]))
END = len(PIECES) - 1
TOP = 5
GAMMA, LAM, BETA, CLIP = 0.99, 0.95, 0.1, 0.2
_SETTINGS: Mapping[str, Mapping[str, object]] = {
    "ppo": {"model": "base", "reward": "rm", "prompts": "p.jsonl", "gamma": GAMMA, "lam": LAM},
    "dpo": {"model": "base", "data": "d.jsonl"},
    "reward": {"model": "base", "data": "d.jsonl"},
}
_CONFIGS: Mapping[str, type[Settings]] = {"ppo": PPOConfig, "dpo": DPOConfig, "reward": RewardConfig}


def run_at_hand(out: Path, command: str, *, steps: int = 3, done: bool = True) -> Path:
    """A run folder with some metrics, whose command keeps files for the inspector; `done` or going on."""
    config = make_config(_CONFIGS[command], {**_SETTINGS[command], "out": out})
    with RunWriter.create(out, config) as writer:
        for step in range(1, steps + 1):
            writer.metrics(step, {"loss": 1 / step, "kl": 0.1 * step, "score": 0.2 * step})
        if done:
            (out / "model.safetensors").write_bytes(b"weights")
            writer.finish()
    return out


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Answers of random tokens, end to end in `tokens`, with a random generator for what is said of them."""

    lengths: Sequence[int]
    tokens: NDArray[np.int32]
    rng: np.random.Generator

    @staticmethod
    def drawn(lengths: Sequence[int], seed: int) -> Answers:
        rng = np.random.default_rng(seed)
        tokens = rng.integers(0, END, sum(lengths)).astype(np.int32)
        tokens[np.cumsum(lengths) - 1] = END
        return Answers(lengths=lengths, tokens=tokens, rng=rng)

    @property
    def row(self) -> NDArray[np.int64]:
        """The answer of each token."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def normal(self, deviation: float = 1.0, mean: float = 0.0) -> NDArray[np.float32]:
        """A number for each token."""
        return self.rng.normal(mean, deviation, len(self.tokens)).astype(np.float32)

    def logprobs(self) -> NDArray[np.float32]:
        return -np.abs(self.normal(1.5)) - np.float32(1e-3)

    def columns(self, prompts: Sequence[str], samples: Sequence[int]) -> dict[str, pa.Array]:
        """What files of all methods have."""
        count = len(self.lengths)
        texts = np.split(self.tokens, np.cumsum(self.lengths)[:-1])
        return {
            "prompt_id": pa.array(prompts),
            "sample": pa.array(samples, pa.int64()),
            "answer": pa.array(["".join(PIECES[int(token)] for token in part) for part in texts]),
            "stopped": pa.array([row % 5 != 4 for row in range(count)]),
            "prompt_tokens": pa.array([[15, 16, 17, 0, 7, 18 + row % 3] for row in range(count)], pa.list_(pa.int32())),
            "tokens": lists(self.tokens, self.lengths),
        }

    def tops(self, name: str, taken: NDArray[np.float32], rows: Sequence[int]) -> dict[str, pa.Array]:
        """Alternatives of some rows, of which the taken token is one as often as not."""
        held = {*rows}
        lengths = [length if row in held else None for row, length in enumerate(self.lengths)]
        inside = np.isin(self.row, [*held])
        ids = np.argsort(self.rng.random((int(inside.sum()), len(PIECES))), axis=1)[:, :TOP].astype(np.int32)
        ids[::2, 1] = self.tokens[inside][::2]
        logprobs = -np.sort(np.abs(self.rng.normal(1, 1, ids.shape)), axis=1).astype(np.float32)
        logprobs[::2, 1] = taken[inside][::2]
        return {f"{name}_top": lists(ids, lengths), f"{name}_top_logprobs": lists(logprobs, lengths)}


def ppo_file(
    run: Path, step: int, lengths: Sequence[int], *, seed: int = 0, group: int = 1, updated: bool = True, **more: Any
) -> Path:
    """A round of PPO. `more` are settings of the arithmetic: `baseline`, `form`, `whiten`, `kl_in`."""
    made = Answers.drawn(lengths, seed)
    rules: dict[str, Any] = {"form": "token", "kl_in": "reward", "whiten": True, "baseline": "critic", **more}
    old, reference = made.logprobs(), made.logprobs()
    scores = torch.from_numpy(made.rng.normal(0, 2, len(lengths)).astype(np.float32))
    stopped = torch.tensor([row % 5 != 4 for row in range(len(lengths))])
    settled = credit.settled_scores(scores, stopped, clip=5.0, missing_eos_penalty=1.0)
    counted = _credited(made, rules, old - reference, settled, group)
    ratio = np.exp(made.normal(0.2))
    prompts, samples = [f"p{row // group}" for row in range(len(lengths))], [row % group for row in range(len(lengths))]
    rows = range(len(lengths)) if len(lengths) <= 64 else random.Random(seed).sample(range(len(lengths)), 64)
    columns = {
        **made.columns(prompts, samples),
        "score": pa.array(scores.double().tolist(), pa.float64()),
        "settled_score": pa.array(settled.double().tolist(), pa.float64()),
        "old": lists(old, lengths),
        "reference": lists(reference, lengths),
        "kl": lists(old - reference, lengths),
        **{name: lists(values, lengths) for name, values in counted[0].items()},
        **made.tops("actor", old, rows),
        **made.tops("reference", reference, rows),
    }
    if updated:
        clipped = np.abs(ratio - 1) > CLIP
        columns |= {"ratio": lists(ratio, lengths), "clipped": lists(clipped, lengths)}
    settings: dict[str, JSON] = {"gamma": GAMMA, "lam": LAM, "beta": BETA, "clip": CLIP, **rules, **counted[1]}
    return _written(run, "ppo", step, settings, columns)


def _credited(
    made: Answers, rules: Mapping[str, Any], kl: NDArray[np.float32], settled: torch.Tensor, group: int
) -> tuple[dict[str, NDArray[np.float32]], dict[str, JSON]]:
    """Rewards to returns by the package's own functions, in float32 as in training."""
    row, trained = torch.from_numpy(made.row), torch.ones(len(made.tokens), dtype=torch.bool)
    beta = BETA if rules["kl_in"] == "reward" else 0.0
    rewards = credit.FORMS[rules["form"]](settled, torch.from_numpy(kl), row, trained, beta)
    critic = rules["baseline"] == "critic"
    values = torch.from_numpy(made.normal(0.7, 0.3)) if critic else torch.zeros_like(rewards)
    if rules["baseline"] in credit.BASELINES:
        total = ragged.segment_sum(rewards, row, len(made.lengths))
        among = credit.BASELINES[rules["baseline"]](total, torch.arange(len(made.lengths)) // group)
        advantages = among[row]
        returns = advantages + values
    else:
        advantages, returns = credit.gae(rewards, values, row, trained, GAMMA, LAM if critic else 1.0)
    numbers: dict[str, JSON] = {"mean": 0.0, "deviation": 1.0, "lam": LAM if critic else 1.0}
    if rules["whiten"]:
        numbers |= {"mean": float(advantages.mean()), "deviation": float(advantages.std(correction=0))}
        advantages = ragged.whiten(advantages, trained)
    found = {"values": values, "rewards": rewards, "advantages": advantages, "returns": returns}
    return {name: tensor.numpy() for name, tensor in found.items()}, numbers


def pairs_file(run: Path, step: int, lengths: Sequence[int], *, seed: int = 0, reference: bool = True) -> Path:
    """Pairs of DPO: two lengths each."""
    made = Answers.drawn(lengths, seed)
    pairs = [row // 2 for row in range(len(lengths))]
    policy, held = made.logprobs(), made.logprobs()
    ends = np.cumsum(lengths)[:-1]
    sums = [part.sum(dtype=np.float64) for part in np.split(policy, ends)]
    of_reference = [part.sum(dtype=np.float64) for part in np.split(held, ends)]
    implicit = BETA * (np.array(sums) - np.array(of_reference))
    margin = np.repeat(implicit[0::2] - implicit[1::2], 2)
    columns = {
        **made.columns([f"p{pair}" for pair in pairs], [3 if row % 2 == 0 else 1 for row in range(len(lengths))]),
        "pair": pa.array(pairs, pa.int64()),
        "role": pa.array(["chosen", "rejected"] * (len(lengths) // 2)),
        "policy": lists(policy, lengths),
        "sum_policy": pa.array(sums, pa.float64()),
        "margin": pa.array(margin, pa.float64()),
        "loss": pa.array(np.log1p(np.exp(-margin)), pa.float64()),
        **made.tops("actor", policy, range(len(lengths))),
    }
    if reference:
        columns |= {
            "reference": lists(held, lengths),
            "log_ratio": lists(policy - held, lengths),
            "sum_reference": pa.array(of_reference, pa.float64()),
            "implicit_reward": pa.array(implicit, pa.float64()),
            **made.tops("reference", held, range(len(lengths))),
        }
    return _written(run, "dpo", step, {"beta": BETA, "loss": "sigmoid", "label_smoothing": 0.0}, columns)


def rankings_file(run: Path, step: int, lengths: Sequence[Sequence[int]], *, seed: int = 0) -> Path:
    """Rankings of a reward model: the lengths of the answers of each, the last of which nobody ranked."""
    flat = [length for ranking in lengths for length in ranking]
    made = Answers.drawn(flat, seed)
    scores = made.normal()
    of = [ranking for ranking, each in enumerate(lengths) for _ in each]
    ranks = [place + 1 if place + 1 < len(each) else None for each in lengths for place in range(len(each))]
    columns = {
        **made.columns([f"p{ranking}" for ranking in of], [place for each in lengths for place in range(len(each))]),
        "ranking": pa.array(of, pa.int64()),
        "rank": pa.array(ranks, pa.int64()),
        "score": pa.array(scores[np.cumsum(flat) - 1].astype(np.float64)),
        "scores": lists(scores, flat),
    }
    return _written(run, "reward", step, {"shift": 0.25, "scale": 2.0, "score_at": "last", "loss": "pairwise"}, columns)


def _written(run: Path, method: str, step: int, settings: Mapping[str, JSON], columns: Mapping[str, pa.Array]) -> Path:
    path = run / "run" / "inspect" / file_name(step)
    path.parent.mkdir(exist_ok=True)
    write(path, table_of(Heading(method=method, step=step, pieces=PIECES, settings=settings), columns))
    return path


def without_heading(path: Path) -> None:
    """Makes a file one of the first version: float64 lists, without a heading, alternatives, ratio and clipped."""
    table = pq.ParquetFile(path).read().replace_schema_metadata(None)
    dropped = [name for name in table.column_names if "_top" in name or name in ("ratio", "clipped")]
    table = table.drop_columns(dropped)
    for place, field in enumerate(table.schema):
        if field.type == pa.list_(pa.float32()):
            table = table.set_column(place, field.name, table.column(place).cast(pa.list_(pa.float64())))
    pq.write_table(table, path)
