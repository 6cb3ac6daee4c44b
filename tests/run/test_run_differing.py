"""Two runs compared: where they part, what that hints at, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import posttrain
from posttrain.cli import main
from posttrain.config import CONFIGS, make_config
from posttrain.errors import DataError, ModelError
from posttrain.run import RunWriter
from posttrain.run.differing import Difference, diff
from posttrain.run.differing_page import page
from posttrain.run.fingerprints import FILE, Fingerprint

WEIGHTS = {"policy.a": 1, "policy.b": 2, "policy.c": 3}
GIVEN = {
    "sft": {"model": "m", "data": "d.jsonl"},
    "dpo": {"model": "m", "data": "d.jsonl"},
    "ppo": {"model": "m", "prompts": "d.jsonl", "reward": "r"},
}


def written(
    out: Path,
    *,
    steps: int = 4,
    parts: Sequence[str] = (),
    at: int = 3,
    done: bool = True,
    prints: bool = True,
    weights: dict[str, int] | None = None,
    command: str = "sft",
    lineage: dict[str, str] | None = None,
    saved: float = 0.0,
    **settings: object,
) -> Path:
    """The folder of a run of some steps; from step `at` on its `parts` are others than usual."""
    config = make_config(CONFIGS[command], {**GIVEN[command], "out": out, **settings})
    data = [item.path for item in getattr(config, "data", ()) if Path(item.path).exists()]
    with RunWriter.create(out, config, lineage=lineage, data=data) as writer:
        for number in range(steps + 1):
            other = parts if number >= at else ()
            numbers = {name: value + (name in other) for name, value in (weights or WEIGHTS).items()}
            mark = ["other" if part in other else "same" for part in ("batch", "loss")]
            if prints:
                writer.fingerprint(Fingerprint(step=number, batch=mark[0], loss=mark[1], weights=numbers))
            if number:
                losses = {"loss": 2.0 + ("loss" in other), "eval_loss": 1.0 + ("eval" in other), "grad_norm": 0.5}
                writer.metrics(number, losses)
        if done:
            save_file({"a": np.full(300, saved, np.float32), "b": np.zeros((2, 2))}, out / "model.safetensors")
            writer.finish()
    return out


def said(found: Difference) -> str:
    """The page as plain text."""
    return "\n".join(f"{line.label.strip()} {''.join(text for text, _ in line.bits)}" for line in page(found))


def test_two_runs_that_are_the_same_say_how_far(tmp_path: Path) -> None:
    found = diff(written(tmp_path / "a"), written(tmp_path / "b"))
    assert found.identical
    assert (found.first, dict(found.settings), dict(found.origins), dict(found.machine)) == (None, {}, {}, {})
    lines = said(found).splitlines()
    assert lines[0].endswith(f"{tmp_path / 'a'} and {tmp_path / 'b'}")
    assert lines[1:] == ["steps 4 steps with the same batch, loss and weights", "saved 2 tensors, the same bits"]


@pytest.mark.parametrize(
    ("parts", "what", "says"),
    [
        (["batch", "loss", "policy.b"], ("batch", "loss", "weights"), "hint other rows, or another order"),
        (["loss", "policy.b"], ("loss", "weights"), "hint the same rows and weights, another loss"),
        (["policy.b", "policy.c"], ("weights",), "hint the same rows and loss, another update"),
        (["eval"], ("metrics",), "hint the same weights, measured otherwise"),
    ],
)
def test_the_first_step_that_differs_is_told_with_what_differs(
    parts: list[str], what: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    found = diff(written(tmp_path / "a"), written(tmp_path / "b", parts=parts))
    assert not found.identical
    assert found.first is not None
    assert (found.first.step, found.first.what) == (3, what)
    assert found.first.weights == tuple(name for name in parts if name in WEIGHTS)
    shown = said(found)
    assert f"steps step 3 is the first that differs, of 4: {', '.join(what)}" in shown
    assert says in shown
    assert ("loss: 2 -> 3" in shown) == ("loss" in parts)
    assert ("eval_loss: 1 -> 2" in shown) == ("eval" in parts)
    if "policy.c" in parts:
        assert "2 of 3 tensors: policy.b and 1 other" in shown


def test_runs_that_sample_are_hinted_at_their_answers_and_rewards(tmp_path: Path) -> None:
    same = written(tmp_path / "a", command="ppo")
    for name, parts, says in (("b", ["batch"], "other prompts or answers"), ("c", ["loss"], "rewards")):
        assert says in said(diff(same, written(tmp_path / name, command="ppo", parts=parts)))


def test_weights_that_differ_before_the_first_step_are_the_start(tmp_path: Path) -> None:
    found = diff(written(tmp_path / "a"), written(tmp_path / "b", parts=["policy.a"], at=0))
    assert "before the first step, of 4: weights" in said(found)
    assert "the runs begin with other weights" in said(found)


def test_settings_versions_threads_data_and_parents_that_differ_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m").mkdir()
    Path("m/config.json").write_text("{}")
    Path("d.jsonl").write_text("1")
    one = written(Path("a"), lineage={"model": "m"})
    Path("m/config.json").write_text("{ }")
    Path("d.jsonl").write_text("2")
    other = written(Path("b"), lineage={"model": "m"}, seed=7, lora={"rank": 4, "alpha": 8})
    record = json.loads((other / "run" / "run.json").read_text())
    record["versions"]["torch"] = "0.1"
    record["machine"] = {"threads": "3"}
    record["automatic"] = {"learning_rate": 0.5}
    (other / "run" / "run.json").write_text(json.dumps(record))
    found = diff(one, other)
    assert found.identical  # the steps and weights say so, whatever the runs were made with
    assert found.settings["seed"] == (0, 7)
    assert found.settings["lora.rank"] == (None, 4)
    assert "out" not in found.settings
    assert found.machine["torch"][1] == "0.1"
    assert found.machine["threads"] == (None, "3")
    assert [*found.origins] == ["d.jsonl", "parent model"]
    shown = said(found)
    assert "seed: 0 -> 7" in shown
    assert "threads: - -> 3" in shown
    assert "d.jsonl: 6b86b273ff34 -> d4735e3a265e" in shown  # the sha256 of 1 and of 2


def test_the_same_data_and_model_under_other_names_do_not_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("m", "n"):
        Path(name).mkdir()
        Path(name, "config.json").write_text("{}")
        Path(f"{name}.jsonl").write_text("1")
    one = written(Path("a"), lineage={"model": "m"}, data="m.jsonl")
    found = diff(one, written(Path("b"), lineage={"model": "n"}, data="n.jsonl", model="n"))
    assert dict(found.origins) == {}
    assert [*found.settings] == ["model", "data"]


def test_a_run_that_is_not_done_is_compared_as_far_as_it_goes(tmp_path: Path) -> None:
    one = written(tmp_path / "a")
    with (one / "run" / FILE).open("a") as file:
        file.write('{"step": 5, "ba')  # as a kill leaves it
    found = diff(one, written(tmp_path / "b", steps=2, done=False))
    assert not found.identical
    assert (found.first, found.weights) == (None, None)
    shown = said(found)
    assert "2 steps with the same batch, loss and weights, as far as both go (4 and 2)" in shown
    assert f"status {tmp_path / 'a'} is done at step 4, {tmp_path / 'b'} is running at step 2" in shown
    assert f"{tmp_path / 'b'} is the beginning of the other" in shown
    assert diff(tmp_path / "b", written(tmp_path / "c", steps=2, done=False)).identical


def test_runs_of_other_commands_and_weights_have_little_in_common(tmp_path: Path) -> None:
    found = diff(
        written(tmp_path / "a"),
        written(tmp_path / "b", command="dpo", weights={"policy.a": 1, "lora.x": 1, "lora.y": 2}),
    )
    assert found.settings["command"] == ("sft", "dpo")
    assert "beta" not in found.settings
    assert (found.sides[0].alone, found.sides[1].alone) == (("policy.b", "policy.c"), ("lora.x", "lora.y"))
    assert found.first is None
    assert not found.identical
    assert f"only {tmp_path / 'b'} trains lora.x and 1 other" in said(found)
    assert "hint one is a run of sft, the other of dpo" in said(found)
    few = written(tmp_path / "c", weights={"policy.a": 1}, parts=["loss"])
    assert "hint other weights are trained" in said(diff(tmp_path / "a", few))


def test_the_step_after_a_resume_points_at_the_resume(tmp_path: Path) -> None:
    one, other = written(tmp_path / "a"), written(tmp_path / "b", parts=["loss", "policy.b"])
    record = json.loads((other / "run" / "run.json").read_text())
    (other / "run" / "run.json").write_text(json.dumps({**record, "resumes": [{"step": 1}, {"step": 2}]}))
    assert f"hint {other} went on from its checkpoint of step 2 right before" in said(diff(one, other))
    resumes = [{"step": 2, "weights": ["policy.c"]}]
    (other / "run" / "run.json").write_text(json.dumps({**record, "resumes": resumes}))
    assert "with other weights than it had: policy.c" in said(diff(one, other))
    assert "with other weights than it had: policy.c" in said(diff(other, one))


def test_runs_without_fingerprints_go_by_their_metrics(tmp_path: Path) -> None:
    one = written(tmp_path / "a", prints=False)
    found = diff(one, written(tmp_path / "b", parts=["batch", "loss"]))
    assert found.by_metrics
    assert found.first is not None
    assert (found.first.step, found.first.what) == (3, ("loss",))
    assert f"{one} has no fingerprints: steps go by metrics.jsonl" in said(found)
    assert "hint metrics alone do not tell rows from weights" in said(found)
    for name in ("c", "d"):
        path = written(tmp_path / name, parts=["loss"] if name == "d" else []) / "run" / FILE
        path.write_text("".join(path.read_text().splitlines(keepends=True)[i] for i in (0, -1)))  # from step 4 on
    assert "step 3 is the first that differs, of 4: loss" in said(diff(tmp_path / "c", tmp_path / "d"))
    assert "hint metrics alone" in said(diff(tmp_path / "c", tmp_path / "d"))
    same = diff(one, written(tmp_path / "e"))
    assert same.identical
    assert "4 steps with the same metrics" in said(same)


def test_saved_weights_that_differ_after_the_same_steps_are_told(tmp_path: Path) -> None:
    one, other = written(tmp_path / "a"), written(tmp_path / "b", saved=1.0)
    found = diff(one, other)
    assert found.weights is not None
    assert (found.weights.common, found.weights.differing) == (2, ("a",))
    assert not found.identical
    assert "saved 1 of 2 tensors differ: a" in said(found)
    assert "every step ends at the same weights" in said(found)
    (other / "run" / "critic").mkdir()
    save_file({"v": np.zeros(1)}, other / "run" / "critic" / "model.safetensors")
    assert f"saved only {other} has run/critic/v" in said(diff(one, other))


def changed(path: Path, *, row: int, lines: Sequence[dict[str, object]]) -> Path:
    """The run with other lines in place of a row of its metrics, counted from 0."""
    file = path / "run" / "metrics.jsonl"
    rows = [json.loads(text) for text in file.read_text().splitlines()]
    rows[row : row + 1] = lines
    file.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


@pytest.mark.parametrize("prints", [True, False])
@pytest.mark.parametrize("row", [0, 1])
def test_a_step_without_its_row_differs(prints: bool, row: int, tmp_path: Path) -> None:
    one, other = written(tmp_path / "a", prints=prints), written(tmp_path / "b", prints=prints)
    changed(other, row=row, lines=[])
    for found, pair in ((diff(one, other), (row + 1, None)), (diff(other, one), (None, row + 1))):
        assert not found.identical
        assert found.first is not None
        assert (found.first.step, found.first.what, found.first.metrics) == (row + 1, ("metrics",), {"step": pair})
        assert f"hint its row of metrics.jsonl is missing in {other}" in said(found)
    assert not diff(changed(one, row=row, lines=[]), written(tmp_path / "c", prints=prints)).identical


def test_the_last_row_is_missing_only_where_the_run_is_done(tmp_path: Path) -> None:
    one, other = written(tmp_path / "a"), changed(written(tmp_path / "b"), row=3, lines=[])
    assert not diff(one, other).identical
    running = changed(written(tmp_path / "c", done=False), row=3, lines=[])  # between the fingerprint and the row
    assert diff(one, running).first is None


def test_a_name_that_one_run_lacks_differs_where_both_measure_alike(tmp_path: Path) -> None:
    row: dict[str, object] = {"step": 2, "seconds": 9.0, "loss": 2.0, "grad_norm": 0.5}
    one = written(tmp_path / "a")
    found = diff(one, changed(written(tmp_path / "b"), row=1, lines=[row]))
    assert not found.identical
    assert found.first is not None
    assert (found.first.step, found.first.what) == (2, ("metrics",))
    assert found.first.metrics == {"eval_loss": (1.0, None)}
    assert "eval_loss: 1 -> -" in said(found)
    seldom = changed(written(tmp_path / "c", eval_every=2), row=1, lines=[row])
    assert diff(one, seldom).identical  # `eval_every` says what is measured when, not what is learnt
    first: list[dict[str, object]] = [{"step": 0, "eval_loss": 3.0}, row]
    assert diff(one, changed(seldom, row=1, lines=first)).identical
    assert not diff(one, changed(written(tmp_path / "d"), row=0, lines=[*first[:1], {**row, "step": 1}])).identical


@pytest.mark.parametrize("loss", [2.0, 7.0])
def test_a_row_that_is_there_twice_is_damage(loss: float, tmp_path: Path) -> None:
    one, other = written(tmp_path / "a"), written(tmp_path / "b")
    row: dict[str, object] = {"step": 2, "seconds": 1.0, "loss": loss, "eval_loss": 1.0, "grad_norm": 0.5}
    changed(other, row=1, lines=[row, row])
    with pytest.raises(DataError, match=r"metrics\.jsonl:3  damaged: step 2 has 'loss' a second time"):
        diff(one, other)


def test_the_metrics_of_a_step_may_stand_on_two_lines(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [{"step": 2, "loss": 2.0, "grad_norm": 0.5}, {"step": 2, "eval_loss": 1.0}]
    assert diff(written(tmp_path / "a"), changed(written(tmp_path / "b"), row=1, lines=lines)).identical


# --- the door, and what is refused ------------------------------------------------------------------------------------


def test_the_exit_code_is_that_of_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, same, other = written(tmp_path / "a"), written(tmp_path / "b"), written(tmp_path / "c", parts=["batch"])
    assert main(["runs", "diff", str(one), str(same)]) == 0
    assert "4 steps with the same batch" in capsys.readouterr().out
    assert main(["runs", "diff", str(one), str(other)]) == 1
    assert "step 3 is the first that differs" in capsys.readouterr().out
    assert main(["runs", "diff", str(one), str(other), "--quiet"]) == 1
    assert capsys.readouterr() == ("", "")
    assert main(["runs", "diff", str(one), str(other), "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert (facts["identical"], facts["first"]["step"], facts["first"]["what"]) == (False, 3, ["batch"])
    assert posttrain.diff(one, same).identical


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["dif", "a", "b"], "error: runs  has no command 'dif'; did you mean diff?\n  fix: posttrain runs diff A B\n"),
        (["diff"], "error: runs diff  needs the folders of two runs, got 0\n  fix: posttrain runs diff A B\n"),
        (
            ["diff", "a", "b", "c"],
            "error: runs diff  needs the folders of two runs, got 3\n  fix: posttrain runs diff A B\n",
        ),
        (["diff", "gone", "gone"], "error: gone is no folder\n  fix: give the folders of two runs\n"),
        (["diff", ".", "."], "error: . is no run folder: it has no run/run.json\n"),
        (["diff", "a", "--fast"], "error: --fast  unknown flag\n"),
    ],
)
def test_what_cannot_be_compared_is_exit_2(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["runs", *words]) == 2
    assert capsys.readouterr() == ("", says)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("run/run.json", b"{", "run.json  damaged: is not JSON"),
        ("run/run.json", b"[1]", "run.json  damaged: is no object"),
        ("run/run.json", b'{"command": 1, "status": "done"}', "run.json  damaged: command is not what a run writes"),
        ("run/run.json", b'{"command": "sft", "status": "done", "data": 1}', "damaged: data is not"),
        ("run/run.json", b'{"command": "sft", "status": "done", "resumes": [1]}', "damaged: resumes is not"),
        ("run/run.json", b"\xff", "run.json  damaged: is not JSON"),
        ("run/config.yaml", b"a: [", "config.yaml:1  is not YAML"),
        ("run/metrics.jsonl", b"{}\n", "metrics.jsonl:1  damaged: step is None"),
        ("run/metrics.jsonl", b"nothing\n", "metrics.jsonl:1  damaged: is not JSON"),
        (
            f"run/{FILE}",
            b'{"format": 9}\n',
            f"{FILE}:1  damaged: expected the names of the weights and format 1\n  fix:",
        ),
        ("model.safetensors", b"\xff" * 20, "model.safetensors  is no whole file of weights"),
        ("model.safetensors", b"\x02" + b"\0" * 7 + b"[]", "model.safetensors  is no whole file of weights"),
        ("model.safetensors", b"", "model.safetensors  is no whole file of weights"),
    ],
)
def test_a_damaged_file_is_named(file: str, content: bytes, says: str, tmp_path: Path) -> None:
    one, other = written(tmp_path / "a"), written(tmp_path / "b")
    (other / file).write_bytes(content)
    with pytest.raises((DataError, ModelError, posttrain.ConfigError)) as caught:
        diff(one, other)
    assert says in str(caught.value)


def test_weights_that_end_before_their_header_says_are_no_whole_file(tmp_path: Path) -> None:
    one, other = written(tmp_path / "a"), written(tmp_path / "b")
    file = other / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match="is no whole file of weights"):
        diff(one, other)


@pytest.mark.parametrize("resume", [{}, {"step": "1"}, {"step": 1, "weights": 1}, {"step": 1, "weights": [1]}])
def test_a_resume_that_no_run_writes_is_damage(resume: dict[str, object], tmp_path: Path) -> None:
    one = written(tmp_path / "a")
    file = one / "run" / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "resumes": [resume]}))
    with pytest.raises(DataError, match=r"run\.json  damaged: resumes is not what a run writes"):
        diff(one, one)
