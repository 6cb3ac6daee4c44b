"""A run that is killed and started again ends with the same bits as one that never was."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
from killing import (
    Nursery,
    after_checkpoint,
    any_time,
    differing,
    hunt,
    inside_a_save,
    lines_written,
    remains,
    wait_for,
)
from stages import Stages, build

import posttrain
from posttrain.cli import main
from posttrain.engine.sealed import steps_in
from posttrain.errors import Interrupted, ModelError, RunExists
from posttrain.recipes import fitting, setup
from posttrain.run import Run, content_hash

pytestmark = pytest.mark.medium

Words = list[str]
SAVING = ("--save_every", "3")
PPO = (
    "--steps 3 --rollouts 8 --group 2 --max_new_tokens 8 --ppo_epochs 2 --minibatches 2 --critic.warmup 2 "
    "--beta.target 3 --rollouts_every 2 --learning_rate 0.01"
)
ONLINE = "--steps 12 --rollouts 8 --group 4 --max_new_tokens 8 --rollouts_every 2 --learning_rate 0.01"
KEPT = (
    "--layout separate --reward_scale running --epoch_kl_stop 0.02 --ptx.batch_size 2 --ema 0.9 --eval_prompts 30% "
    "--eval_every 1 --stop_if.kl 1000 --best eval_score_sampled"
)
PASSES = "--steps 14 --batch_size 4 --learning_rate 0.01 --eval_data 20% --eval_every 4"
LORA = "--lora.rank 4 --lora.alpha 8"


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """The stages before PPO and DPO; nothing may be written into them."""
    return build(tmp_path_factory.mktemp("stages"), tiny_model)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Where processes are started."""
    opened = Nursery()
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process answer sample prompts as shortly as those of the nursery."""
    monkeypatch.setattr(setup, "SAMPLE_TOKENS", 16)


def commands(stages: Stages) -> Mapping[str, Words]:
    """Every method, and PPO in every layout, without `--out`."""
    sft, lora, judge, judge_lora = (
        str(path) for path in (stages.sft, stages.sft_lora, stages.reward, stages.reward_lora)
    )
    chats, prompts, rankings = str(stages.chats), str(stages.prompts), str(stages.rankings)
    asked = ["--samples", "1 + 1 ="]
    return {
        "sft": ["sft", "--model", str(stages.base), "--data", chats, *PASSES.split(), *asked],
        "sft-dropout": [
            "sft", "--model", str(stages.base), "--data", chats, *PASSES.split(), *asked, *LORA.split(),
            "--lora.dropout", "0.2",
        ],
        "reward": ["reward", "--model", sft, "--data", rankings, *PASSES.split()],
        "dpo": ["dpo", "--model", lora, "--data", rankings, *PASSES.split(), *asked, *LORA.split()],
        "dpo-kto": ["dpo", "--loss", "kto", "--model", sft, "--data", rankings, *PASSES.split()],
        "online-dpo": [
            "online-dpo", "--model", lora, "--reward", judge_lora, "--prompts", prompts, *ONLINE.split(), *LORA.split(),
        ],
        "ppo-separate": ["ppo", "--model", sft, "--reward", judge, "--prompts", prompts, *PPO.split()],
        "ppo-adapters": [
            "ppo", "--model", lora, "--reward", judge_lora, "--prompts", prompts, *PPO.split(), *LORA.split(),
            "--layout", "adapters",
        ],
        "ppo-trunk": [
            "ppo", "--model", lora, "--reward", judge, "--prompts", prompts, *PPO.split(), *LORA.split(),
            "--layout", "trunk",
        ],
        "ppo-kept": [
            "ppo", "--model", lora, "--reward", judge, "--prompts", prompts, *PPO.split(), *LORA.split(), *KEPT.split(),
            "--ptx.data", chats,
        ],
    }  # fmt: skip


METHODS = (
    "sft", "sft-dropout", "reward", "dpo", "dpo-kto", "online-dpo", "ppo-separate", "ppo-adapters", "ppo-trunk",
    "ppo-kept",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(
    trained: Stages, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, object]]:
    """What a run of a method leaves when nobody disturbs it."""
    folder = tmp_path_factory.mktemp("whole")

    @cache
    def undisturbed(method: str) -> dict[str, object]:
        out = folder / method
        hunt(nursery, [*commands(trained)[method], *SAVING, "--out", str(out)], out, [])
        return remains(out)

    return undisturbed


@pytest.mark.parametrize("method", METHODS[1:])  # the first is the second without dropout
def test_a_run_killed_twice_ends_with_the_same_bits(
    method: str, trained: Stages, nursery: Nursery, whole: Callable[[str], dict[str, object]], tmp_path: Path
) -> None:
    words, killed = [*commands(trained)[method], *SAVING], tmp_path / "killed"
    moments = [inside_a_save(2), lines_written(8)]
    tale = hunt(nursery, [*words, "--out", str(killed)], killed, moments)
    assert tale.landed >= 1
    assert differing(whole(method), remains(killed)) == []
    assert len(json.loads((killed / "run" / "run.json").read_text())["resumes"]) >= 1
    assert not (killed / "run" / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_run_killed_at_many_random_instants_ends_with_the_same_bits(
    method: str,
    trained: Stages,
    nursery: Nursery,
    whole: Callable[[str], dict[str, object]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words, chance = [*commands(trained)[method], *SAVING], random.Random(f"many {method}")
    landed = inside = 0
    for number in range(6):
        killed = tmp_path / f"killed-{number}"
        moments = [any_time(chance, 1.2) for _ in range(3)]
        moments += [inside_a_save(chance.randint(1, 3)), after_checkpoint(chance.randint(1, 12))]
        chance.shuffle(moments)
        tale = hunt(nursery, [*words, "--out", str(killed)], killed, moments)
        landed, inside = landed + tale.landed, inside + tale.inside_saves
        assert differing(whole(method), remains(killed)) == [], f"run {number}"
    with capsys.disabled():
        sys.stdout.write(f"\n{method}: {landed} kills landed, {inside} of them inside a save; nothing lost\n")
    assert landed >= 10


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_saves_and_the_same_command_goes_on(
    how: signal.Signals,
    trained: Stages,
    nursery: Nursery,
    whole: Callable[[str], dict[str, object]],
    tmp_path: Path,
) -> None:
    words = [*commands(trained)["ppo-trunk"], "--save_every", "null"]  # no save but the one that is asked for
    out = tmp_path / "stopped"
    tale = hunt(nursery, [*words, "--out", str(out)], out, [lines_written(5)], how=how)
    assert tale.codes == [130]
    step = Run.open(out).record["resumes"][0]["step"]
    assert step >= 5
    log = out.with_name(f"{out.name}.log").read_text()
    assert f"interrupted: checkpoint at step {step} of 12; the same command goes on" in log
    assert f"going on from the checkpoint of step {step} of 12" in log
    assert differing(whole("ppo-trunk"), remains(out)) == []


def test_a_run_that_is_asked_to_stop_before_its_first_step_says_where_it_stands(
    trained: Stages, stopped: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "fly", lambda *_: signal.raise_signal(signal.SIGTERM))
    newest = steps_in(out / "run" / "checkpoints")[0]
    with pytest.raises(Interrupted, match=f"interrupted: checkpoint at step {newest} of 14; the same command goes on"):
        again(trained, stopped, out)
    with pytest.raises(Interrupted, match="nothing was saved; the same command begins again"):
        again(trained, stopped, out, fresh=True)


# --- what may be changed under a run, and what may not --------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(trained: Stages, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and an sft run `run` that was killed after its checkpoint of step 6; not to be written to."""
    folder = tmp_path_factory.mktemp("stopped")
    shutil.copy(trained.chats, folder / "chats.jsonl")
    words = [*commands(trained)["sft"], *SAVING]
    words[words.index(str(trained.chats))] = str(folder / "chats.jsonl")
    child = nursery.start([*words, "--out", str(folder / "run")], folder / "log")
    assert wait_for(after_checkpoint(6), folder / "run", nursery)
    os.kill(child, signal.SIGKILL)
    assert nursery.code() == -signal.SIGKILL
    return folder


@pytest.fixture
def out(stopped: Path, tmp_path: Path) -> Path:
    """A copy of the run that was killed."""
    shutil.copytree(stopped / "run", tmp_path / "run")
    return tmp_path / "run"


def again(trained: Stages, stopped: Path, out: Path, **changed: object) -> Run:
    """The command of the killed run, with some settings changed."""
    settings: dict[str, object] = {
        "steps": 14, "batch_size": 4, "learning_rate": 0.01, "eval_data": "20%", "eval_every": 4, "save_every": 3,
        "samples": ["1 + 1 ="], "quiet": True, "model": trained.base, "data": stopped / "chats.jsonl", "out": out,
    }  # fmt: skip
    return posttrain.sft(**{**settings, **changed})  # type: ignore[arg-type]


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def said(out: Path) -> str:
    return (out / "run" / "log.txt").read_text()


def test_changed_settings_are_shown_and_nothing_is_touched(trained: Stages, stopped: Path, out: Path) -> None:
    before = content(out)
    with pytest.raises(RunExists, match=r"learning_rate: 0\.01 -> 0\.02") as caught:
        again(trained, stopped, out, learning_rate=0.02, save_every=5)
    assert "save_every" not in str(caught.value)
    assert content(out) == before


def test_changed_data_are_refused(trained: Stages, stopped: Path, tmp_path: Path, nursery: Nursery) -> None:
    shutil.copytree(stopped, tmp_path / "all")
    folder = tmp_path / "all"
    settings = {"data": folder / "chats.jsonl"}
    with pytest.raises(RunExists, match="data"):  # another path is another setting
        again(trained, stopped, folder / "run", **settings)
    rows = (stopped / "chats.jsonl").read_bytes()
    try:
        (stopped / "chats.jsonl").write_bytes(rows + b'{"prompt": "a", "completion": "b"}\n')
        with pytest.raises(RunExists, match=r"chats\.jsonl: its content changed"):
            again(trained, stopped, folder / "run")
    finally:
        (stopped / "chats.jsonl").write_bytes(rows)


def test_settings_that_change_no_result_may_change_and_are_said(trained: Stages, stopped: Path, out: Path) -> None:
    run = again(trained, stopped, out, save_every=2, keep=1, samples=[], micro_batch_tokens=64)
    assert run.status == "done"
    assert "save_every: 3 -> 2, from here on" in said(out)
    assert " -> 64, from here on: the same method, but not bit for bit" in said(out)
    assert run.config.model_dump()["save_every"] == 2
    assert [row["step"] for row in run.metrics] == list(range(1, 15))


def test_a_damaged_checkpoint_is_passed_over_and_the_one_before_goes_on(
    trained: Stages, stopped: Path, out: Path, whole: Callable[[str], dict[str, object]]
) -> None:
    newest, before = steps_in(out / "run" / "checkpoints")
    file = out / "run" / "checkpoints" / f"step-{newest:06d}" / "engine.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    run = again(trained, stopped, out)
    assert f"checkpoint of step {newest} is not used: engine.safetensors has " in said(out)
    assert run.record["resumes"][0]["step"] == before
    assert differing(remains(out), whole("sft")) == []


def test_without_a_whole_checkpoint_the_run_starts_over(
    trained: Stages, stopped: Path, out: Path, whole: Callable[[str], dict[str, object]]
) -> None:
    for step in steps_in(out / "run" / "checkpoints"):
        (out / "run" / "checkpoints" / f"step-{step:06d}" / "manifest.json").unlink()
    run = again(trained, stopped, out)
    assert "no checkpoint is whole: the run starts over" in said(out)
    assert "resumes" not in run.record
    assert differing(remains(out), whole("sft")) == []


def test_a_run_that_saved_nothing_may_be_started_with_other_settings(trained: Stages, stopped: Path, out: Path) -> None:
    shutil.rmtree(out / "run" / "checkpoints")
    run = again(trained, stopped, out, learning_rate=0.02)
    assert "held a run that saved nothing: started over" in said(out)
    assert "learning_rate: 0.01 -> 0.02" in said(out)
    assert len(run.metrics) == 14


def test_fresh_starts_over(trained: Stages, stopped: Path, out: Path) -> None:
    run = again(trained, stopped, out, learning_rate=0.02, fresh=True)
    assert "going on" not in said(out)
    assert "resumes" not in run.record
    assert len(run.metrics) == 14


def test_a_run_that_is_done_says_so_and_touches_nothing(
    trained: Stages, stopped: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again(trained, stopped, out)
    before = content(out)
    again(trained, stopped, out, quiet=False)
    assert "is done already" in capsys.readouterr().out
    assert content(out) == before


def test_a_checkpoint_made_elsewhere_goes_on_and_says_that_bits_may_differ(
    trained: Stages, stopped: Path, out: Path
) -> None:
    step = steps_in(out / "run" / "checkpoints")[0]
    folder = out / "run" / "checkpoints" / f"step-{step:06d}"
    state = json.loads((folder / "state.json").read_text())
    state["made"] |= {"torch": "2.0", "device": "another"}
    (folder / "state.json").write_text(json.dumps(state))
    manifest = json.loads((folder / "manifest.json").read_text())
    facts = {"bytes": (folder / "state.json").stat().st_size, "sha256": content_hash(folder / "state.json")}
    manifest["files"]["state.json"] = facts
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert again(trained, stopped, out).record["resumes"][0]["step"] == step
    assert "torch was 2.0, is " in said(out)
    assert "device was another, is " in said(out)
    assert "not bit for bit" in said(out)


@pytest.mark.parametrize("command", ["sample", "eval", "sft"])
def test_a_run_that_is_not_finished_is_no_model_and_says_how_to_go_on(
    command: str, trained: Stages, stopped: Path, out: Path, tmp_path: Path
) -> None:
    more: dict[str, object] = {"out": tmp_path / "new", "quiet": True}
    call = {
        "sample": lambda: posttrain.sample(out, prompts=trained.prompts, **more),
        "eval": lambda: posttrain.evaluate(out, data=trained.chats, quiet=True),
        "sft": lambda: posttrain.sft(model=out, data=trained.chats, **more),
    }[command]
    with pytest.raises(ModelError, match="is a run that has not finished, at step ") as caught:
        call()
    assert f"fix: run its command again, it goes on: posttrain sft {out}/run/config.yaml --out {out}" in str(
        caught.value
    )


def test_the_command_that_the_message_names_goes_on(
    stopped: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sft", f"{out}/run/config.yaml", "--out", str(out), "--quiet"]) == 0, capsys.readouterr().err
    assert Run.open(out).record["resumes"]


def test_an_unfinished_reward_model_is_refused_as_one(trained: Stages, stopped: Path, out: Path) -> None:
    with pytest.raises(ModelError, match="has not finished"):
        posttrain.ppo(model=trained.sft, reward=out, prompts=trained.prompts, out=out.with_name("ppo"), quiet=True)


def test_a_second_process_is_refused_and_the_first_goes_on(
    trained: Stages, nursery: Nursery, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = [*commands(trained)["reward"], "--out", str(out)]
    child = nursery.start(words, tmp_path / "log")
    assert wait_for(lines_written(1), out, nursery)
    os.kill(child, signal.SIGSTOP)
    for more in ([], ["--fresh"]):
        assert main([*words, *more, "--quiet"]) == 2
        assert f"is being written by process {child} on " in capsys.readouterr().err
    os.kill(child, signal.SIGCONT)
    assert nursery.code() == 0


def test_tensorboard_goes_on_with_the_same_run(trained: Stages, stopped: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    shutil.copytree(stopped / "run", tmp_path / "run")
    again(trained, stopped, tmp_path / "run", track="tensorboard")
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "run" / "tensorboard")).Reload()
    run = Run.open(tmp_path / "run")
    first = run.record["resumes"][0]["step"] + 1
    expected = [(row["step"], pytest.approx(row["loss"])) for row in run.metrics if row["step"] >= first]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == expected
