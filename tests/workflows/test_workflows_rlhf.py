"""The loop: what each round asks, learns from and measures, what is held out of all of it, and when it begins anew."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import closing, redirect_stdout
from pathlib import Path

import pytest
from loops import DPO, PPO, facts, rows, write_loop
from stages import Stages, write_rows

import posttrain
from posttrain.cli import main
from posttrain.config import RLHFConfig, load_config
from posttrain.console import open_console
from posttrain.data import feedback_db
from posttrain.errors import ConfigError, DataError, ModelError, RunExists
from posttrain.run import Run
from posttrain.workflows.loop_folder import claim

pytestmark = pytest.mark.medium


def ran(file: Path, *words: str) -> str:
    """What a loop says that is run to its end."""
    out = io.StringIO()
    with redirect_stdout(out):
        code = main(["rlhf", str(file), *words])
    assert code == 0, out.getvalue()
    return out.getvalue()


@pytest.fixture(scope="module")
def loop(stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a loop of two rounds of PPO that is done; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("ppo")
    ran(write_loop(folder, stages))
    return folder / "loop"


@pytest.fixture(scope="module")
def dpo_loop(stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a loop of two rounds of DPO, each from the policy of the last, and what it said."""
    folder = tmp_path_factory.mktemp("dpo")
    return folder / "loop", ran(write_loop(folder, stages, DPO))


def asked(path: Path) -> list[str]:
    """What the prompts of rows ask."""
    return [(row.get("messages") or row["prompt"])[-1]["content"] for row in rows(path)]


def test_every_stage_is_a_run_or_a_file_of_its_own(loop: Path) -> None:
    for number in (1, 2):
        folder = loop / f"round-{number}"
        assert (Run.open(folder / "reward").command, Run.open(folder / "reward").status) == ("reward", "done")
        assert (Run.open(folder / "policy").command, Run.open(folder / "policy").status) == ("ppo", "done")
        pool = rows(folder / "pool.jsonl")
        assert [len(row["responses"]) for row in pool] == [3] * 8
    assert (loop / "rounds.md").read_text(encoding="utf-8").count("\n| ") == 3  # a head and two rounds


def test_prompts_that_were_not_asked_before_come_first(loop: Path, stages: Stages) -> None:
    everything = {row["prompt"] for row in rows(stages.prompts)}
    first, second = (asked(loop / f"round-{number}" / "prompts.jsonl") for number in (1, 2))
    assert len(everything) == 12
    assert (len(set(first)), len(set(second))) == (8, 8)
    assert everything == {*first, *second}


def test_the_second_round_asks_the_policy_of_the_first(loop: Path) -> None:
    first, second = (facts(loop / f"round-{number}" / "eval.json") for number in (1, 2))
    assert (first["answers_from"], first["policy"]) == (first["policy_from"], "round-1/policy")
    assert (second["answers_from"], second["policy_from"]) == ("round-1/policy", first["policy_from"])
    policy = loop / "round-1" / "policy"
    again = posttrain.sample(
        policy, prompts=loop / "round-2" / "prompts.jsonl", k=3, max_new_tokens=6, seed=3, quiet=True,
        out=loop.parent / "again.jsonl",
    )  # fmt: skip
    assert again.read_bytes() == (loop / "round-2" / "pool.jsonl").read_bytes()


@pytest.mark.parametrize("method", ["ppo", "dpo"])
def test_what_is_held_out_is_trained_on_in_no_round(
    method: str, loop: Path, dpo_loop: tuple[Path, str], stages: Stages
) -> None:
    out = loop if method == "ppo" else dpo_loop[0]
    held = set(asked(out / "prompts" / "held_out.jsonl"))
    train = set(asked(out / "prompts" / "train.jsonl"))
    assert held
    assert held | train == {row["prompt"] for row in rows(stages.prompts)}
    assert not held & train
    measured: set[str] = set()
    for number in (1, 2):
        folder = out / f"round-{number}"
        assert set(asked(folder / "rankings" / "rankings.jsonl")) <= train
        kept = folder / "rankings" / "rankings.held_out.jsonl"
        measured |= set(asked(kept)) if kept.is_file() else set()
        reward = Run.open(folder / "reward").config.model_dump()
        assert [item["path"] for item in reward["data"]] == [str(folder / "rankings" / "rankings.jsonl")]
        assert reward["eval_data"] == (str(kept) if kept.is_file() else None)
        policy = Run.open(folder / "policy").config.model_dump()
        given = policy["prompts" if method == "ppo" else "data"]
        source = folder / "policy_prompts.jsonl" if method == "ppo" else folder / "rankings" / "rankings.jsonl"
        assert [item["path"] for item in given] == [str(source)]
        assert set(asked(source)) <= train
    assert measured
    assert measured <= held


def test_ppo_trains_on_no_prompt_of_an_audit_item_asked_yet_or_not(stages: Stages, tmp_path: Path) -> None:
    ran(write_loop(tmp_path, stages, f"{PPO}rank: {{audit: 0.4}}\n"))
    out = tmp_path / "loop"
    with closing(feedback_db.connect(out / "feedback.db")) as connection:
        found = connection.execute("SELECT DISTINCT prompt FROM items WHERE audit").fetchall()
    audits = {json.loads(prompt)[-1]["content"] for (prompt,) in found}
    train = set(asked(out / "prompts" / "train.jsonl"))
    assert audits & train
    for number in (1, 2):  # by the second round every prompt was asked
        file = out / f"round-{number}" / "policy_prompts.jsonl"
        assert set(asked(file)) == train - audits


def learnt_in(folder: Path) -> set[str]:
    """The ids of the rankings that a round trains or measures with, but for those of audit items."""
    return {row["id"] for file in folder.iterdir() if "audit" not in file.name for row in rows(file)}


def test_the_reward_model_learns_from_the_rankings_of_all_rounds_but_those_of_audit_items(loop: Path) -> None:
    with closing(feedback_db.connect(loop / "feedback.db")) as connection:
        audits = {name for (name,) in connection.execute("SELECT id FROM items WHERE audit")}
        ranked = connection.execute("SELECT DISTINCT item, annotator FROM events WHERE kind = 'rank'").fetchall()
    names = {f"{item}/{who}" for item, who in ranked if item not in audits}
    first, second = (
        {
            row["id"]
            for file in (loop / f"round-{n}" / "rankings").iterdir()
            if "audit" not in file.name
            for row in rows(file)
        }
        for n in (1, 2)
    )
    assert second == names
    assert first < second


def test_a_round_is_measured_beside_people_and_against_the_start_and_the_last(loop: Path) -> None:
    first, second = (facts(loop / f"round-{number}" / "eval.json") for number in (1, 2))
    held = len(rows(loop / "prompts" / "held_out.jsonl"))
    for found in (first, second):
        for other in ("against_start", "against_previous"):
            for judge in ("by_reward_model", "by_annotator"):
                assert found[other][judge]["win_rate"]["count"] == held
        assert found["reward"]["people_agree"]["count"] > 0  # ada and bo share a fifth of the items
    assert first["against_start"] == first["against_previous"]
    assert second["against_start"] != second["against_previous"]
    card = facts(loop / "round-2" / "reward" / "run" / "reward_card.json")
    assert second["reward"]["accuracy"] == card["held_out"]["accuracy"]
    evaluated = posttrain.evaluate(
        loop / "round-2" / "policy", against=loop / "round-1" / "policy", judge=loop / "round-2" / "reward",
        data=loop / "prompts" / "held_out.jsonl", max_new_tokens=4, seed=1, quiet=True,
    )  # fmt: skip
    assert json.loads(json.dumps(dict(evaluated))) == second["against_previous"]["by_reward_model"]


def test_a_policy_from_the_last_one_says_its_reference(dpo_loop: tuple[Path, str], stages: Stages) -> None:
    out, said = dpo_loop
    assert f"── round 1 of 2: DPO from {stages.sft}; reference: {stages.sft}\n" in said
    assert f"── round 2 of 2: DPO from {out}/round-1/policy; reference: {out}/round-1/policy\n" in said
    record = Run.open(out / "round-2" / "policy").record
    assert record["parents"]["model"]["name"] == f"{out}/round-1/policy"
    found = facts(out / "round-2" / "eval.json")
    assert (found["policy_from"], found["reference"]) == ("round-1/policy", "round-1/policy")


def test_from_the_second_round_on_the_last_reward_model_says_what_it_is_unsure_of(dpo_loop: tuple[Path, str]) -> None:
    out, said = dpo_loop
    first, second = said.split("── round 2 of 2: sampling", 1)
    assert ": unsure of" not in first
    assert f"reward {out}/round-1/reward: unsure of " in second


def test_the_same_command_does_nothing_again_and_more_rounds_go_on(stages: Stages, tmp_path: Path) -> None:
    file = write_loop(tmp_path, stages)
    ran(file, "--rounds", "1")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "loop" / "round-1").rglob("*") if path.is_file()}
    assert "1 round done" in ran(file, "--rounds", "1")
    assert "2 rounds done" in ran(file)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(RunExists, match=r"another loop.*\n    ask: 8 -> 5\n    ppo.steps: 2 -> 3\n"):
        posttrain.start(load_config(RLHFConfig, file, {"ask": "5", "ppo.steps": "3"}), console=open_console(quiet=True))
    ranked = (tmp_path / "loop" / "feedback.db").read_bytes()
    ran(file, "--rounds", "1", "--fresh")
    assert not (tmp_path / "loop" / "round-2").exists()
    assert (tmp_path / "loop" / "feedback.db").read_bytes()[:100] == ranked[:100]
    with closing(feedback_db.connect(tmp_path / "loop" / "feedback.db")) as connection:
        assert connection.execute("SELECT count(*) FROM items").fetchone()[0] == 16  # the first answers are the same


def test_a_kill_while_rounds_are_removed_leaves_the_first_ones(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(RLHFConfig, write_loop(tmp_path, stages), {})
    claim(config, fresh=False).release()
    for number in (1, 2, 10):
        (tmp_path / "loop" / f"round-{number}").mkdir()
    rename = Path.rename

    def killed(folder: Path, target: Path) -> Path:
        if folder.name == "round-2":
            raise SystemExit
        return rename(folder, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(SystemExit):
            claim(config, fresh=True)
    claim(config, fresh=False).release()
    assert sorted(item.name for item in (tmp_path / "loop").iterdir()) == ["loop.yaml", "round-1", "round-2", "run"]
    claim(config, fresh=True).release()
    assert sorted(item.name for item in (tmp_path / "loop").iterdir()) == ["loop.yaml", "run"]


def test_other_prompts_are_another_loop(loop: Path, stages: Stages, tmp_path: Path) -> None:
    changed = write_rows(tmp_path / "prompts.jsonl", [*rows(stages.prompts), {"prompt": "One more?"}])
    config = load_config(RLHFConfig, loop.parent / "loop.yaml", {})
    shutil.copyfile(stages.prompts, tmp_path / "kept.jsonl")
    try:
        shutil.copyfile(changed, stages.prompts)
        with pytest.raises(RunExists, match="holds other prompts than there are now: the loop began with those"):
            posttrain.start(config, console=open_console(quiet=True))
    finally:
        shutil.copyfile(tmp_path / "kept.jsonl", stages.prompts)


def test_a_folder_of_something_else_is_left_alone(stages: Stages, tmp_path: Path) -> None:
    file = write_loop(tmp_path, stages)
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "thesis.txt").write_text("mine")
    assert main(["rlhf", str(file), "--fresh"]) == 2
    assert [item.name for item in (tmp_path / "loop").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        ({"model": "reward"}, ModelError, "is a reward model: it scores answers and writes none"),
        ({"held_out": "0%"}, DataError, "held_out 0% of 12 prompts holds none out to measure with"),
        ({"held_out": "100%"}, DataError, "held_out 100% of 12 prompts leaves none to train on"),
        ({"prompts": "texts"}, DataError, "2 rows hold text to continue; answers to messages are ranked"),
        ({"annotator": "gone.py:gold"}, ModelError, "gone.py:gold: no such reward model, and no such file as gone.py"),
        (
            {"annotator": {"score": "rewards.py:same", "tie_share": 1.0}},
            DataError,
            "no two answers are ranked differently in .* to train on\n  fix: another annotator.score or fewer ties",
        ),
        (
            {"wait": {"rankings": 500}},
            ConfigError,
            "wait.rankings  500 rankings are waited for, and the round gives at most 12:",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_its_reason(
    words: dict[str, object],
    error: type[Exception],
    says: str,
    stages: Stages,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = write_rows(tmp_path / "texts.jsonl", [{"text": "Once"}, {"text": "Twice"}])
    places = {"reward": stages.reward, "texts": texts}
    gold = write_loop(tmp_path, stages).with_name("rewards.py")
    settings = {
        "model": stages.sft, "prompts": stages.prompts, "out": tmp_path / "loop", "annotator": f"{gold}:gold",
        "sample": {"k": 2, "max_new_tokens": 4},
    }  # fmt: skip
    changed = {name: places.get(str(value), value) for name, value in words.items()}
    with pytest.raises(error, match=says):
        posttrain.rlhf(quiet=True, **(settings | changed))


def test_from_python_the_rounds_come_back_as_they_are_written(loop: Path, stages: Stages) -> None:
    config = load_config(RLHFConfig, loop.parent / "loop.yaml", {})
    found = posttrain.start(config, console=open_console(quiet=True))
    assert list(found.rounds) == [facts(loop / f"round-{number}" / "eval.json") for number in (1, 2)]
    assert found.policy == Run(loop / "round-2" / "policy")
    assert found.policy.status == "done"
