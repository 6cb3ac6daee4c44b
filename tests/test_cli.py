"""The command line, through real processes: what is refused, in which words, with which exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import posttrain
from posttrain import cli
from posttrain.commands import ABOUT, SWITCHES, Switch
from posttrain.config import CONFIGS, SFTConfig, leaves, make_config
from posttrain.errors import DataError, Diverged, DoesNotFit
from posttrain.run import Run, RunWriter

ENVIRONMENT = os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def posttrain_command(*words: str, folder: Path | None = None) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `posttrain words`."""
    command = [sys.executable, "-m", "posttrain", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=folder, env=ENVIRONMENT)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("stf",), "error: unknown command 'stf'; did you mean sft?\n"),
        (("sft", "--lorarank", "32"), "error: --lorarank  unknown flag; did you mean --lora.rank?\n"),
        (("sft", "--learningrate", "1"), "error: --learningrate  unknown flag; did you mean --learning_rate?\n"),
        (
            ("sft", "--max_seq_length=512"),
            "error: --max_seq_length  unknown flag; that is TRL's name, here: --max_length 512\n",
        ),
        (("sft", "--fersh"), "error: --fersh  unknown flag; did you mean --fresh?\n"),
        (("eval", "--fresh"), "error: --fresh  unknown flag\n"),
        (("demo", "--oot", "x"), "error: --oot  unknown flag; did you mean --out?\n"),
        (("sft", "--out"), "error: --out  needs a value\n"),
        (("sft", "--out", "a", "--out", "b"), "error: --out  is given twice\n"),
        (("ppo", "a.yaml", "b.yaml"), "error: unexpected argument 'b.yaml'\n"),
        (("sft", "gone.yaml"), "error: gone.yaml  cannot read the settings: no such file\n"),
    ],
)
def test_what_is_typed_wrong_is_one_line_and_exit_2(
    words: tuple[str, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    assert tuple(capsys.readouterr()) == ("", says)


def test_all_problems_of_file_and_flags_are_told_together_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "sft.yaml").write_text("model: base\nmax_lenght: 5\nout: run\n")
    code, out, error = posttrain_command("sft", "sft.yaml", "--batch_size", "none", folder=tmp_path)
    assert (code, out) == (2, "")
    assert error == (
        "error: 3 problems\n"
        "  sft.yaml  data is missing: what to train on: a path, or a list of {path, weight, columns}\n"
        "  sft.yaml:2  unknown key 'max_lenght'; did you mean 'max_length'?\n"
        "  --batch_size  expected a whole number of at least 1, got 'none'\n"
    )
    assert [file.name for file in tmp_path.iterdir()] == ["sft.yaml"]


@pytest.mark.medium
def test_an_out_path_that_holds_another_run_is_refused_with_the_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"model": "base", "data": "d.jsonl", "out": "run"}
    Path("d.jsonl").write_text('{"text": "a"}\n')
    with RunWriter.create(Path("run"), make_config(SFTConfig, {**given, "seed": 1})) as writer:
        writer.metrics(1, {"loss": 1.0})
        writer.finish()
    flags = [word for name, value in given.items() for word in (f"--{name}", value)]
    assert cli.main(["sft", *flags, "--seed", "2"]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert "error: run holds another run" in error
    assert "seed: 1 -> 2" in error


HEAVY = {"torch", "transformers", "peft", "pyarrow", "datasets", "numpy", "tokenizers"}


def test_help_and_init_load_no_heavy_library() -> None:
    # the cause of a help that takes seconds; the seconds themselves are measured by `python -m benchmarks door`
    lines = [["--help"], ["--version"], ["init", "sft"], *([command, "--help"] for command in ABOUT)]
    code = (
        "import contextlib, io, sys\n"
        "from posttrain.cli import main\n"
        f"for words in {lines!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()): assert main(words) == 0\n"
        f"print(*sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env=ENVIRONMENT
    )
    assert done.stdout == "\n"


def test_the_first_help_reads_no_settings() -> None:
    code = (
        "import sys; from posttrain.cli import main; main(['--help']);"
        "print('loaded', *({'pydantic', 'ruamel', 'posttrain.config', 'posttrain.console'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env=ENVIRONMENT
    )
    assert done.stdout.splitlines()[-1] == "loaded"


def test_the_help_of_a_command_lists_every_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["sft", "--help"]) == 0
    shown = capsys.readouterr().out
    missing = [leaf.name for leaf in leaves(SFTConfig) if f"--{leaf.name} " not in shown]
    assert missing == ["version"]
    assert "settings in YAML, which flags override" in shown


def test_the_commands_are_those_with_settings_and_four_more() -> None:
    assert set(ABOUT) == {*CONFIGS, "demo", "init", "report", "runs", "selftest"}


def test_without_a_command_the_help_lists_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    shown = capsys.readouterr().out
    assert all(f" {command} " in shown for command in ABOUT)


# --- with a recipe in place: what reaches it, and what becomes of its errors ----------------------------------------


class Recipe:
    """Stands where the recipes are called, and remembers or raises."""

    def __init__(self, outcome: object) -> None:
        self.outcome = outcome
        self.config: object = None
        self.options: dict[str, bool] = {}

    def __call__(self, config: object, *, console: object, **options: bool) -> object:
        self.config, self.options = config, options
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


def called(monkeypatch: pytest.MonkeyPatch, outcome: object) -> Recipe:
    recipe = Recipe(outcome)
    monkeypatch.setattr(posttrain, "start", recipe)
    return recipe


def test_file_positional_and_flags_reach_the_recipe_as_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = called(monkeypatch, None)
    file = tmp_path / "sft.yaml"
    file.write_text("model: base\ndata: a\nout: o\nlora: {rank: 4}\n")
    words = ["sft", str(file), "--data", "b", "--data", "c", "--lora.alpha", "8", "--warmup=0", "--fresh"]
    assert cli.main(words) == 0
    settings = {"model": "base", "data": ["b", "c"], "out": "o", "lora": {"rank": 4, "alpha": 8}, "warmup": 0}
    assert recipe.config == make_config(SFTConfig, settings)
    assert recipe.options == {"fresh": True}


def test_a_flag_may_be_typed_with_dashes(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = called(monkeypatch, None)
    words = "sft --model m --data d --out o --max-bad 1% --learning-rate=1e-4 --batch_size 2"
    assert cli.main(words.split()) == 0
    given = {"model": "m", "data": "d", "out": "o", "max_bad": "1%", "learning_rate": 1e-4, "batch_size": 2}
    assert recipe.config == make_config(SFTConfig, given)


def test_a_file_that_cannot_be_made_is_refused_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = called(monkeypatch, None)
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / "pool.jsonl"
    assert cli.main(["sample", "m", "--prompts", "p", "--out", str(out)]) == 2
    assert recipe.config is None
    assert f"{out} cannot be made: {tmp_path / 'file'} is a file" in capsys.readouterr().err


def test_a_new_switch_is_a_line_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = called(monkeypatch, None)
    monkeypatch.setitem(SWITCHES, "dry_run", Switch(about="stop before training", commands=frozenset({"sft"})))
    assert cli.main(["sft", "--model", "m", "--data", "d", "--out", "o", "--dry-run"]) == 0
    assert recipe.options == {"dry_run": True}
    assert cli.main(["dpo", "--model", "m", "--data", "d", "--out", "o", "--dry-run"]) == 2


def test_sample_and_eval_take_the_model_in_first_place(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = called(monkeypatch, None)
    assert cli.main(["sample", "runs/sft", "--prompts", "p.jsonl", "-k", "4", "--out", "pool.jsonl"]) == 0
    given = {"model": "runs/sft", "prompts": "p.jsonl", "k": 4, "out": "pool.jsonl"}
    assert recipe.config == make_config(CONFIGS["sample"], given)


@pytest.mark.parametrize(
    ("words", "data"),
    [
        (["a.jsonl"], "a.jsonl"),
        (["a.jsonl", "b.jsonl"], ["a.jsonl", "b.jsonl"]),
        (["a.jsonl", "--data", "b.jsonl"], ["a.jsonl", "b.jsonl"]),
        (["a.jsonl", "--data", "{path: a.jsonl, split: test}"], [{"path": "a.jsonl", "split": "test"}]),
        (["a.jsonl", "b.jsonl", "--data", "{path: a.jsonl}"], ["b.jsonl", {"path": "a.jsonl"}]),
    ],
)
def test_check_takes_any_number_of_files_and_one_with_settings_of_its_own_once(
    words: list[str], data: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = called(monkeypatch, None)
    assert cli.main(["check", *words]) == 0
    assert recipe.config == make_config(CONFIGS["check"], {"data": data})


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (Diverged("loss is not a number"), 4, "error: loss is not a number\n"),
        (DoesNotFit("needs 30 GB, there are 8"), 3, "error: needs 30 GB, there are 8\n"),
        (
            MemoryError("8 GB"),
            3,
            "error: out of memory: 8 GB\n"
            "  fix: end other programs that hold memory, a smaller micro_batch_tokens, or a smaller model\n",
        ),
        (
            ValueError("a\x1b[2Jb\x9b"),
            1,
            "error: ValueError: a\\u001b[2Jb\\u009b\n  rerun with --debug for the traceback\n",
        ),
        (DataError("a\x1b[2Jb\x9b"), 2, "error: a\\u001b[2Jb\\u009b\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (OSError("disk full"), 1, "error: OSError: disk full\n  rerun with --debug for the traceback\n"),
        (
            PermissionError(13, "Permission denied", "/runs/a"),
            2,
            "error: /runs/a  cannot be opened: permission denied\n"
            "  fix: give another --out, or change the rights of the folder\n",
        ),
        (
            OSError(28, "No space left on device", "/runs/a"),
            3,
            "error: /runs/a  cannot be written: no space left on device\n  fix: free some space\n",
        ),
        (
            ModuleNotFoundError("No module named 'datasets'", name="datasets"),
            2,
            "error: the package datasets is not installed\n  fix: pip install 'posttrain[hub]'\n",
        ),
    ],
)
def test_each_kind_of_error_has_its_exit_code_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, says: str
) -> None:
    called(monkeypatch, error)
    assert cli.main(["sft", "--model", "m", "--data", "d", "--out", "o"]) == code
    assert capsys.readouterr().err == says


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    called(monkeypatch, OSError("disk full"))
    assert cli.main(["sft", "--model", "m", "--data", "d", "--out", "o", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_json_prints_the_result_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    config = make_config(SFTConfig, {"model": "m", "data": "d", "out": out})
    with RunWriter.create(out, config) as writer:
        writer.finish(eval_loss=1.5)
    called(monkeypatch, Run(out))
    assert cli.main(["sft", "--model", "m", "--data", "d", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(out), "status": "done", "results": {"eval_loss": 1.5}}


def test_the_console_is_closed_when_a_recipe_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    # a live panel that stays open would leave the terminal without a cursor
    closed: list[bool] = []

    class Watched:
        def finish(self) -> None:
            closed.append(True)

    monkeypatch.setitem(posttrain._RECIPES, "sft", "posttrain.nowhere:sft")
    with pytest.raises(ModuleNotFoundError):
        posttrain.start(make_config(SFTConfig, {"model": "m", "data": "d", "out": "o"}), console=Watched())
    assert closed == [True]


@pytest.mark.medium
def test_a_run_goes_on_when_nobody_reads_its_lines(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"prompt": "one", "response": "two"}\n' * 8)
    words = [
        "sft",
        "--model",
        str(tiny_model),
        "--data",
        "d.jsonl",
        "--out",
        "out",
        "--steps",
        "8",
        "--batch_size",
        "1",
    ]
    command = [sys.executable, "-m", "posttrain", *words]
    with subprocess.Popen(  # posttrain sft ... 2>&1 | head -1
        command, text=True, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=60) == 0
    run = Run.open(tmp_path / "out")
    assert (run.status, len(run.metrics)) == ("done", 8)
    assert "saved out" in (tmp_path / "out" / "run" / "log.txt").read_text()


def test_sigterm_ends_a_command_as_ctrl_c_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cleared: list[str] = []

    def dispatch(words: Sequence[str]) -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)  # some senders repeat it
            cleared.append("whole")
        return 0

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(cli, "_dispatch", dispatch)
    assert cli.main(["sft"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"
    assert cleared == ["whole"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_process_that_a_command_has_forked_ends_by_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    def dispatch(words: Sequence[str]) -> int:
        child = os.fork()
        if child == 0:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    monkeypatch.setattr(cli, "_dispatch", dispatch)
    assert cli.main(["sft"]) == -signal.SIGTERM
