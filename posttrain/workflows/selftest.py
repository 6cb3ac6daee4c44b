"""The self-test: this installation, on this device and on a model of the user's, measured against theory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from posttrain.console import Console
from posttrain.console.page import Bit, Line, Tone, line
from posttrain.counted import counted
from posttrain.errors import ConfigError, Problem
from posttrain.models.heads import Policy
from posttrain.models.load import load_causal
from posttrain.models.parity import TOLERANCE, gate_policy
from posttrain.recipes.setup import machine, quiet_libraries
from posttrain.run import Run
from posttrain.workflows.proofs.laws import Law, laws, of_any_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A law and what was measured of it. `error` says why nothing could be."""

    about: str
    law: str
    measured: float
    bound: float
    seconds: float
    error: str = ""

    @property
    def holds(self) -> bool:
        """Whether the number is within its bound; one that is not a number is not."""
        return self.measured <= self.bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Selftest:
    """Every law that was measured, on which device, and the model that was measured beside the small one."""

    device: str
    model: str | None
    verdicts: tuple[Verdict, ...]

    @property
    def broken(self) -> list[str]:
        """The laws that do not hold here."""
        return [
            f"{each.law}: {each.error or f'{each.measured:.1e}, at most {each.bound:.0e} is allowed'}"
            for each in self.verdicts
            if not each.holds
        ]

    def facts(self) -> dict[str, object]:
        """The whole of it for JSON; a number that is not finite is null."""
        return {
            "device": self.device,
            "model": self.model,
            "holds": not self.broken,
            "laws": [
                {
                    "about": each.about, "law": each.law, "measured": _finite(each.measured), "bound": each.bound,
                    "holds": each.holds, "seconds": round(each.seconds, 3), "error": each.error or None,
                }
                for each in self.verdicts
            ],
        }  # fmt: skip


def selftest(model: str | None = None, *, only: str = "", console: Console) -> Selftest:
    """The laws of the small world, and those that hold of any model measured on `model`; nothing is written.

    `only` takes those laws that have it in what they say or are about.

    Gradients and formulas are measured in float64 on the CPU, the rest on the first GPU where there is one.
    Raises ModelError when the model cannot be loaded, ConfigError when no law is left.
    """
    quiet_libraries()
    device = machine().device
    measured: list[Verdict] = []
    chosen = _chosen([*laws(device), *([] if model is None else laws_of(model, device))], only)
    for law in chosen:
        console.working(f"measuring {law.says}")
        measured.append(_measured(law))
        console.page(_shown(measured[-1], first=len(measured) == 1 or measured[-2].about != law.about))
    result = Selftest(device=str(device), model=model, verdicts=tuple(measured))
    if not result.broken:
        seconds = sum(each.seconds for each in measured)
        held = counted(len(measured), "law", "hold")
        console.finish(f"{held} on {device}, measured in {seconds:.0f} seconds")
    return result


def laws_of(path: str, device: torch.device) -> Iterator[Law]:
    """The laws of any model, on the one that `path` names, in float32."""
    Run(Path(path)).require_done()
    loaded = load_causal(path, device=device)
    policy = Policy(loaded.model, stack=loaded.stack)

    def parity() -> float:
        return gate_policy(policy, loaded.own_attention).difference

    says = "its log-probs under this package are the model's own"
    yield Law(about=path, says=says, measure=parity, bound=TOLERANCE)
    for law in of_any_model(policy, bound=TOLERANCE):
        yield Law(about=path, says=law.says, measure=law.measure, bound=law.bound)


def _chosen(known: Sequence[Law], only: str) -> list[Law]:
    chosen = [law for law in known if only.lower() in f"{law.about}\n{law.says}".lower()]
    if not chosen:
        fix = "give a part of what a law says, as `posttrain selftest` shows it"
        raise ConfigError([Problem(place="--only", what=f"no law says '{only}'", fix=fix)])
    return chosen


def _measured(law: Law) -> Verdict:
    began = time.perf_counter()
    measured, error = float("nan"), ""
    try:
        measured = law.measure()
    except Exception as wrong:  # what breaks instead of giving a number is reported as a law that does not hold
        error = f"{type(wrong).__name__}: {wrong}".splitlines()[0]
    seconds = time.perf_counter() - began
    return Verdict(about=law.about, law=law.says, measured=measured, bound=law.bound, seconds=seconds, error=error)


def _shown(verdict: Verdict, *, first: bool) -> Sequence[Line]:
    tone: Tone = "dim" if verdict.holds else "bad"
    sign: Bit = ("  ✓ ", "good") if verdict.holds else ("  ✗ ", "bad")
    number = verdict.error or f"{verdict.measured:.1e}, at most {verdict.bound:.0e}"
    heading = [line("", (verdict.about, "strong"))] if first else []
    return [*heading, line("", sign, f"{verdict.law}  ", (number, tone))]


def _finite(number: float) -> float | None:
    return number if abs(number) < float("inf") else None
