"""The self-test: every law holds here, a broken one is told, and a user's model is measured too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

import posttrain
from posttrain.cli import main
from posttrain.console import open_console
from posttrain.models.heads import Policy
from posttrain.ops import credit, kl, losses, ragged
from posttrain.types import TokenBatch
from posttrain.workflows import selftest as module
from posttrain.workflows.proofs.laws import Law, laws
from posttrain.workflows.selftest import Selftest

CPU = torch.device("cpu")
LAWS = laws(CPU)
QUICK = [law for law in LAWS if "training" not in law.about]


@pytest.mark.parametrize("law", QUICK, ids=lambda law: law.says)
def test_a_law_holds(law: Law) -> None:
    assert law.measure() <= law.bound


def named(start: str) -> Law:
    [law] = [law for law in LAWS if law.says.startswith(start)]
    return law


Patch = Callable[[pytest.MonkeyPatch], None]


def _future(patch: pytest.MonkeyPatch) -> None:
    """A policy whose log-probs look one token ahead."""
    forward = Policy.forward

    def peeking(self: Policy, batch: TokenBatch, **options: bool) -> object:
        output = forward(self, batch, **options)
        return output._replace(logprobs=output.logprobs + 1e-3 * batch.tokens.roll(-1) * batch.trained)

    patch.setattr(Policy, "forward", peeking)


def _estimator(name: str, function: Callable[..., torch.Tensor]) -> Patch:
    return lambda patch: patch.setitem(kl.ESTIMATORS, name, function)


def _replaced(room: ModuleType, name: str, function: Callable[..., torch.Tensor]) -> Patch:
    return lambda patch: patch.setattr(room, name, function)


WHITEN = ragged.whiten
BREAKS: list[tuple[str, Patch]] = [
    (
        "PPO's actor",
        _replaced(losses, "clipped_policy", lambda new, old, a, clip: a * (new - old).exp()),
    ),
    ("PPO's actor", _estimator("k1", lambda actor, reference: reference - actor)),
    ("k3 in the loss", _estimator("k3", lambda actor, reference: (actor - reference).exp() - 1 - actor + reference)),
    ("at the optimum", lambda patch: patch.setitem(credit.FORMS, "token", credit.sequence_rewards)),
    ("the critic", _replaced(losses, "clipped_value", lambda v, old, r, clip: (v + r).square() / 2)),
    ("IPO", _replaced(losses, "_log_ratio_difference", lambda c, r, rc, rr: (c + rc) - (r + rr))),
    ("DPO begins", _replaced(losses, "_log_ratio_difference", lambda c, r, rc, rr: c - r)),
    ("no token sees", _future),
    ("two ranks", _replaced(ragged, "whiten", lambda values, where, total=None: WHITEN(values, where))),
]


@pytest.mark.parametrize(("start", "spoil"), BREAKS, ids=[f"{n} {start}" for n, (start, _) in enumerate(BREAKS)])
def test_a_broken_law_is_found(start: str, spoil: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch)
    [law] = [law for law in laws(CPU) if law.says.startswith(start)]
    assert not law.measure() <= law.bound


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A self-test of few laws, which is quick; what the laws are worth is shown above."""
    monkeypatch.setattr(module, "laws", lambda device: [named("DPO: of"), named("at the optimum")])


@pytest.mark.usefixtures("few")
def test_the_command_shows_every_law_with_its_number_and_bound(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest"]) == 0
    said = capsys.readouterr().out
    assert "✓ DPO: of the preferences' likelihood" in said
    assert "at most 1e-10" in said
    assert "2 laws hold on cpu" in said


@pytest.mark.usefixtures("few")
def test_a_broken_law_makes_the_command_fail_and_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(losses, "_log_ratio_difference", lambda c, r, rc, rr: (c + rc) - (r + rr))
    monkeypatch.setattr(module, "laws", lambda device: [law for law in laws(CPU) if law.says.startswith("IPO")])
    assert main(["selftest", "--json"]) == 1
    out, errors = capsys.readouterr()
    found = json.loads(out)
    assert found["holds"] is False
    assert [law["law"] for law in found["laws"] if not law["holds"]] == ["IPO"]
    assert "error: 1 of the laws do not hold here\n  IPO: " in errors


def test_what_breaks_instead_of_giving_a_number_is_a_broken_law(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> float:
        raise RuntimeError("no such thing\nmore")

    measures: list[tuple[str, Callable[[], float]]] = [("raises", broken), ("is no number", lambda: float("nan"))]
    wrong = [Law(about="x", says=says, measure=measure, bound=1.0) for says, measure in measures]
    monkeypatch.setattr(module, "laws", lambda device: wrong)
    result = module.selftest(console=open_console(quiet=True))
    assert result.broken == ["raises: RuntimeError: no such thing", "is no number: nan, at most 1e+00 is allowed"]
    assert json.loads(json.dumps(result.facts()))["laws"][1]["measured"] is None


@pytest.mark.usefixtures("few")
def test_a_model_of_the_users_is_measured_too(tiny_model: Path) -> None:
    result = posttrain.selftest(tiny_model, quiet=True)
    assert isinstance(result, Selftest)
    assert result.broken == []
    own = [verdict.law for verdict in result.verdicts if verdict.about == str(tiny_model)]
    assert own[0] == "its log-probs under this package are the model's own"
    assert len(own) == 6
    assert posttrain.selftest(quiet=True).model is None


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("name", ["nowhere/to/be/found", "tests"])
def test_a_model_that_cannot_be_loaded_is_one_clear_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", "--model", name]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert "Traceback" not in errors


def test_only_the_laws_that_say_it_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert [verdict.law for verdict in posttrain.selftest(only="IPO", quiet=True).verdicts] == ["IPO"]
    assert main(["selftest", "--only", "nothing like it"]) == 2
    assert "--only  no law says 'nothing like it'\n  fix: " in capsys.readouterr().err


@pytest.mark.slow
def test_every_law_holds_training_included() -> None:
    assert posttrain.selftest(quiet=True).broken == []
