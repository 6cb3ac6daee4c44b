"""Runs of finetuning that save often, with things that happen at chosen steps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from stages import Stages

import posttrain
from posttrain.config import SFTConfig, make_config
from posttrain.console import Console, Silent
from posttrain.console.progress import Progress
from posttrain.run import Run

STEPS = 12
Acts = Mapping[int, Callable[[], object]]


class At(Silent):
    """Acts at chosen steps, after their update and before their save."""

    def __init__(self, acts: Acts) -> None:
        self._acts = acts

    def step(self, progress: Progress) -> None:
        self._acts.get(progress.step, lambda: None)()


def train(stages: Stages, out: Path, acts: Acts, **more: object) -> Run:
    """A run of 12 updates that saves after every other one."""
    settings = {"model": stages.base, "data": stages.chats, "out": out, "steps": STEPS, "batch_size": 4, "keep": 1}
    settings |= {"learning_rate": 0.01, "eval_data": None, "save_every": 2, **more}
    found = posttrain.start(make_config(SFTConfig, settings), console=Console(At(acts)))
    assert isinstance(found, Run)
    return found


def said(out: Path) -> str:
    return (out / "run" / "log.txt").read_text(encoding="utf-8")


def checkpoints(out: Path) -> Path:
    return out / "run" / "checkpoints"


def saves_end() -> None:
    """Waits until no save is under way."""
    for thread in threading.enumerate():
        if thread.name == "beside":
            thread.join(60)
