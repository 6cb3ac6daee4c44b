"""Checkpoints: torn and damaged ones, and ones whose seal is whole while what they hold is not."""

from __future__ import annotations

import json
import random
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import chdir
from functools import cache
from hashlib import sha256
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn

from posttrain.config import SFTConfig
from posttrain.data.pack import Budget
from posttrain.data.source import EpochSource, Weighted
from posttrain.engine.checkpoint import Checkpoints, RandomNumbers, Weights
from posttrain.engine.local import LocalEngine, ParameterGroup, schedule
from posttrain.engine.sealed import MANIFEST, damage, steps_in, write_sealed
from posttrain.recipes.keeping import Average, Best
from posttrain.run import RunWriter
from posttrain.types import Stateful, Step

from .doors import Kind, Told, law
from .mutators import Files

FOLDER = "checkpoints"


def parts() -> Mapping[str, Stateful]:
    """The parts of a small run: what every method has, and what runs that keep their best have."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    model = nn.Linear(3, 2)
    trained = list(model.parameters())
    engine = LocalEngine(
        [ParameterGroup(name="all", parameters=trained, learning_rate=1e-3)],
        schedule=schedule("cosine", steps=9, warmup=0.1),
        grad_clip=1.0,
    )
    engine.backward(model(torch.ones(1, 3)).sum())
    engine.step(["row"])
    best = Best(trained, "eval_loss")
    best.after(1, {"eval_loss": 0.5})
    source = EpochSource(
        [Weighted(items=[1, 2, 3], weight=1.0)], _step, batch_size=2, epochs=4, steps=None, seed=0, ahead=False
    )
    writer = RunWriter.create("x", SFTConfig(model="base", data="rows", out="x"))
    return {
        "weights": Weights({"model": model}, trained),
        "engine": engine,
        "source": source,
        "random": RandomNumbers(),
        "run": writer,
        "budget": Budget(64, automatic=True),
        "average": Average(trained, 0.9),
        "best": best,
    }


def _step(rows: Sequence[int]) -> Step:
    return Step(micro_batches=[], counts={}, rows=[str(row) for row in rows])


@cache
def seeds() -> Sequence[Files]:
    """Two checkpoints, and arrays that are kept beside them."""
    with tempfile.TemporaryDirectory() as place, chdir(place):
        folder = Path(FOLDER)
        checkpoints = Checkpoints(folder, keep=2)
        made = parts()
        for step in (2, 4):
            checkpoints.save(step, {name: part.state() for name, part in made.items()})
        arrays = {"reference": np.arange(4.0), "rows": np.arange(3)}
        write_sealed(folder / "order", lambda part: save_file(arrays, part / "arrays.safetensors"))
        files = [path for path in Path(place, FOLDER).rglob("*") if path.is_file()]
        found = {str(path.relative_to(place)): path.read_bytes() for path in sorted(files)}
        timed = {name: re.sub(rb'"seconds": [0-9.e-]+', b'"seconds": 1.0', data) for name, data in found.items()}
        return [sealed(timed)]


def sealed_again(files: Files, rng: random.Random) -> Files:
    """Of two inputs one gets manifests that fit its files, so that what reads them behind the seal is reached."""
    return files if rng.random() < 0.4 else sealed(files)


def sealed(files: Files) -> Files:
    """The files with manifests that fit them."""
    made = dict(files)
    for name in [name for name in files if name.endswith(f"/{MANIFEST}")]:
        folder = str(PurePosixPath(name).parent)
        inside = {
            each: data for each, data in files.items() if str(PurePosixPath(each).parent) == folder and each != name
        }
        facts = {
            PurePosixPath(each).name: {"bytes": len(data), "sha256": sha256(data).hexdigest()}
            for each, data in inside.items()
            if not each.endswith("/")
        }
        made[name] = json.dumps({"format": 1, "files": facts}).encode()
    return made


def door(folder: Path, told: Told) -> bool:
    """The newest whole checkpoint is found, whatever the others are, and every part goes on from it or says why not."""
    place = Path(FOLDER)
    whole = [step for step in steps_in(place) if damage(place / f"step-{step:06d}") is None]
    damage(place / "order")
    found = told.attempt(lambda: Checkpoints(place, keep=2).newest(), "checkpoint")
    if found is None:
        return False
    saved, passed = found
    newer = [step for step in steps_in(place) if saved is None or step > saved.step]
    said = all(f"step {step} is not used: " in line for step, line in zip(newer, passed, strict=True))
    law(said, "what is passed over is not said")
    law(saved is None or saved.step in whole, "a damaged one is taken")
    if saved is None:
        told.refusals += [*passed, "there is none"]
        return False
    there = parts()
    told.attempt(lambda: saved.restore(there), "checkpoint")
    return not told.refusals


CHECKPOINTS = Kind(name="checkpoints", seeds=seeds, door=door, after=sealed_again)
