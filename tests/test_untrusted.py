"""What others wrote is only read: none of it is run, and no text of theirs means anything where it is shown."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import safe_open
from stages import write_rows

from posttrain.cli import main
from posttrain.run.card import model_card

PACKAGE = Path(__file__).resolve().parent.parent / "posttrain"
FILES = sorted(PACKAGE.rglob("*.py"))
UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "pandas", "yaml"}
"""Modules whose readers make objects of whatever a file names."""
RUNNING = {"subprocess", "pty", "code", "runpy", "ctypes"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
METHODS = {"torch.load", "numpy.load", "np.load", "os.system", "os.popen", "os.execv", "torch.hub.load"}
OWN_CODE = "recipes/functions.py"
"""Runs the Python files that people give as their own rewards, and nothing else does."""


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Every call with the name that is called, dotted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0]


@pytest.mark.parametrize("name", sorted({room(file) for file in FILES}))
def test_no_module_can_make_code_or_objects_of_a_file(name: str) -> None:
    for file in FILES:
        if room(file) == name:
            makes_nothing_of_a_file(file)


def makes_nothing_of_a_file(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imported = {
        alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    } | {
        (node.module or "").partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
    }  # fmt: skip
    refused = UNPICKLING | (set() if str(file.relative_to(PACKAGE)) == OWN_CODE else RUNNING)
    assert not imported & refused, file
    for call, name in calls(tree):
        assert name not in METHODS, f"{file}:{call.lineno}"
        assert name not in BUILTINS, f"{file}:{call.lineno}"
        if name.rpartition(".")[2] in ("exec_module", "run_path", "run_module"):
            assert str(file.relative_to(PACKAGE)) == OWN_CODE, f"{file}:{call.lineno}"
        for keyword in call.keywords:
            if keyword.arg in ("trust_remote_code", "allow_pickle"):
                assert isinstance(keyword.value, ast.Constant), f"{file}:{call.lineno}"
                assert keyword.value.value is False, f"{file}:{call.lineno}"


def test_every_load_of_the_library_of_models_says_that_no_code_is_run() -> None:
    found = [
        (file.name, call)
        for file in FILES
        if "from_pretrained(" in (text := file.read_text(encoding="utf-8")) or "load(" in text
        for call, name in calls(ast.parse(text))
        if name in ("AutoConfig.from_pretrained", "AutoTokenizer.from_pretrained", "load") and call.keywords
    ]
    assert len(found) >= 3
    for name, call in found:
        assert "trust_remote_code" in {keyword.arg for keyword in call.keywords}, f"{name}:{call.lineno}"


# --- whole commands -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model whose files name code beside it, which would leave a mark, and with rows."""
    monkeypatch.chdir(tmp_path)
    model = Path(shutil.copytree(tiny_model, tmp_path / "work" / "model"))
    (model / "evil.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\nclass Any: ...\n")
    (model / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch mark'\ntR.")
    classes = {"AutoConfig": "evil.Any", "AutoModelForCausalLM": "evil.Any", "AutoTokenizer": ["evil.Any", None]}
    for name in ("config.json", "tokenizer_config.json"):
        facts = json.loads((model / name).read_text())
        (model / name).write_text(json.dumps({**facts, "auto_map": classes, "_name_or_path": "/etc/passwd"}))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


STEERING = "\x1b[2J\x9b31m[red]</script><img src=x onerror=alert(1)>"


@pytest.mark.medium
def test_a_run_on_hostile_files_runs_nothing_and_writes_nowhere_else(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["../../mark", "/mark", "..", "a/b", "\x1b[2J", "CON", "a" * 300]
    rows = [{"id": names[n % 7], "prompt": f"{n} {STEERING}", "response": f"{STEERING} {n}"} for n in range(14)]
    write_rows(Path("rows.jsonl"), rows)
    before = {path for path in folder.rglob("*") if path.is_file()}
    words = "sft --model model --data rows.jsonl --steps 2 --batch_size 4 --eval_data 20% --out run"
    assert main([*words.split(), "--samples", STEERING]) == 0
    made = {path for path in folder.rglob("*") if path.is_file()} - before
    assert made
    assert all(path.is_relative_to(folder / "work" / "run") for path in made)
    assert not (folder / "mark").exists()
    shown = capsys.readouterr()
    assert not {"\x1b", "\x9b"} & set(shown.out + shown.err + Path("run/run/log.txt").read_text())
    with safe_open("run/model.safetensors", framework="pt") as saved:
        assert saved.metadata() == {"format": "pt"}
    assert not list(Path("run").rglob("*.bin")) + list(Path("run").rglob("*.py"))


@pytest.mark.medium
def test_the_page_of_check_shows_hostile_rows_as_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(Path("rows.jsonl"), [{"prompt": f"{n} {STEERING}", "response": STEERING} for n in range(8)])
    assert main(["check", "rows.jsonl", "--model", "model", "--json"]) == 0
    assert not {"\x1b", "\x9b"} & set(capsys.readouterr().out)
    assert main(["check", "rows.jsonl", "--model", "model"]) == 0
    shown = capsys.readouterr().out
    assert not {"\x1b", "\x9b"} & set(shown)
    assert r"\u001b[2J\u009b31m[red]</script>" in shown
    assert not (folder / "mark").exists()


def test_a_folder_that_only_pickles_and_code_can_make_a_model_of_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(Path("rows.jsonl"), [{"prompt": "a", "response": "b"}])
    facts = json.loads(Path("model/config.json").read_text())
    Path("model/config.json").write_text(json.dumps({**facts, "model_type": "evil"}))
    words = ["sft", "--model", "model", "--data", "rows.jsonl", "--out", "run"]
    assert main(words) == 2
    assert "has no usable config.json: " in capsys.readouterr().err
    Path("model/config.json").write_text(json.dumps(facts))
    Path("model/model.safetensors").unlink()
    assert main(words) == 2
    assert "only pytorch_model.bin, and pickles are never loaded" in capsys.readouterr().err
    assert not (folder / "mark").exists()


def test_names_of_data_mark_nothing_up_in_a_model_card(tmp_path: Path) -> None:
    hostile = "</script><b>`*x*`\n# title\n```"
    record = {
        "command": "classify",
        "versions": {"posttrain": "1"},
        "data": {hostile: "0" * 64},
        "results": {hostile: {hostile: 1.0}, "accuracy": hostile},
    }
    card = model_card(tmp_path, record, base=hostile, settings=f"samples:\n- |\n  {hostile}\n")
    text, _, settings = card.partition("## Settings")
    bare = re.sub(r"(?<!\\)`[^`\n]*`", "", text.partition("## Load")[0] + text.partition("## Data")[2])
    assert re.search(r"(?<!\\)[<>`*#]", re.sub(r"^#+ ", "", bare, flags=re.MULTILINE)) is None
    assert "\n# title" not in text
    assert settings.count("````") == 2
