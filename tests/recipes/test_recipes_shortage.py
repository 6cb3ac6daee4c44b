"""Memory that runs out in the middle of a run: half the micro-batch once, then a clear end, and nothing lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import commands
from killing import differing, remains
from stages import Stages, write_rows
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain.cli import main
from posttrain.engine.local import LocalEngine
from posttrain.errors import out_of_memory
from posttrain.recipes import fitting
from posttrain.rollout.sampler import BatchedSampler

WORDS = "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 GB"


def longer(words: Sequence[str], steps: int) -> list[str]:
    """The command with so many steps."""
    given = list(words)
    given[given.index("--steps") + 1] = str(steps)
    return [*given, "--quiet"]


def runs_out(
    patch: pytest.MonkeyPatch, what: type, verb: str, when: Callable[[int], bool], error: Exception | None = None
) -> None:
    """A verb of the engine or sampler finds no memory at those of its calls, counted from 1, that come in training."""
    real, fit, calls = getattr(what, verb), fitting.fit, list[int]()
    raised = RuntimeError(WORDS) if error is None else error

    def short(self: Any, *given: Any, **named: Any) -> Any:
        calls.append(1)
        if when(len(calls)):
            raise raised
        return real(self, *given, **named)

    def watched(*given: Any, **named: Any) -> Any:
        patch.setattr(what, verb, short)  # from here on: what is tried before the first step has its memory
        return fit(*given, **named)

    patch.setattr(fitting, "fit", watched)


@pytest.mark.medium
@pytest.mark.parametrize("method", ["sft-dropout", "reward", "dpo-kto", "online-dpo", "ppo-adapters", "ppo-trunk"])
def test_a_step_that_finds_no_memory_is_made_again_with_half_the_micro_batch(
    method: str, stages: Stages, tmp_path: Path
) -> None:
    words = longer(commands(stages)[method], 3)
    if method == "ppo-trunk":  # of whose steps the second half is text
        words += ["--ptx.data", str(stages.chats), "--ptx.batch_size", "2"]
    assert main([*words, "--out", str(tmp_path / "plenty")]) == 0
    with pytest.MonkeyPatch.context() as patch:
        runs_out(patch, LocalEngine, "backward", lambda call: call == 2)
        assert main([*words, "--out", str(tmp_path / "short")]) == 0
    said = (tmp_path / "short" / "run" / "log.txt").read_text()
    step = 1 if method.startswith("ppo") else 2  # with text or a critic, which go backwards by themselves
    assert f"out of memory in step {step}, which is made again: [enforce fail at alloc_cpu.cpp" in said
    assert "micro_batch_tokens 8,192 -> 4,096 from here on: the same method, but not bit for bit" in said
    # All rows of these steps fit into one micro-batch of either size: then not even a rounding differs.
    assert differing(remains(tmp_path / "plenty"), remains(tmp_path / "short")) == []


@pytest.mark.medium
def test_a_round_whose_sampling_finds_no_memory_is_asked_again(stages: Stages, tmp_path: Path) -> None:
    words = [*longer(commands(stages)["ppo-trunk"], 3), "--ptx.data", str(stages.chats), "--ptx.batch_size", "2"]
    assert main([*words, "--out", str(tmp_path / "plenty")]) == 0
    with pytest.MonkeyPatch.context() as patch:
        runs_out(patch, BatchedSampler, "__call__", lambda call: call == 2, MemoryError())
        assert main([*words, "--out", str(tmp_path / "short")]) == 0
    assert "which is made again: MemoryError; micro_batch" in (tmp_path / "short" / "run" / "log.txt").read_text()
    assert differing(remains(tmp_path / "plenty"), remains(tmp_path / "short")) == []


def test_a_second_time_ends_the_run_with_code_3_and_its_last_whole_step(
    stages: Stages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, out = longer(commands(stages)["sft"], 4), tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        runs_out(patch, LocalEngine, "backward", lambda call: call > 2)
        assert main([*words, "--out", str(out)]) == 3
    error = capsys.readouterr().err
    assert re.fullmatch(
        r"error: out of memory in step 3, before its update, with micro_batch_tokens 4,096: \[enforce fail .*\n"
        r"  checkpoint at step 2 of 4; the same command goes on\n"
        r"  fix: end other programs that hold memory, or --micro_batch_tokens 2048\n",
        error,
    ), error
    assert main([*words, "--out", str(out)]) == 0
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    assert differing(remains(tmp_path / "whole"), remains(out)) == []


def test_tokens_that_were_asked_for_stay_halved_in_a_run_that_goes_on(stages: Stages, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [*longer(commands(stages)["sft"], 4), "--micro_batch_tokens", "2048", "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        runs_out(patch, LocalEngine, "backward", lambda call: call == 3 or call > 4)  # in step 3, and again in step 4
        assert main(words) == 3
    assert main(words) == 0
    said = (out / "run" / "log.txt").read_text()
    assert "micro_batch_tokens 2,048 -> 1,024 from here on" in said
    assert "micro_batch_tokens 1,024: as before, since memory ran out with 2,048" in said
    record = json.loads((out / "run" / "run.json").read_text())
    assert record["shortage"] == {"step": 3, "micro_batch_tokens": [2048, 1024]}
    card = (out / "README.md").read_text()
    assert "running them again gives this model but for rounding" in card
    assert "reproduces this model" not in card


def test_memory_that_runs_out_inside_an_update_ends_the_run_at_the_checkpoint_before(
    stages: Stages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, out = [*longer(commands(stages)["sft"], 4), "--save_every", "1"], tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        runs_out(patch, LocalEngine, "step", lambda call: call == 3)
        assert main([*words, "--out", str(out)]) == 3
    error = capsys.readouterr().err
    assert "out of memory in step 3, inside the update, with micro_batch_tokens 8,192: " in error
    assert "  the checkpoint before it stands; the same command goes on\n" in error
    assert main([*words, "--out", str(out)]) == 0
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    assert differing(remains(tmp_path / "whole"), remains(out)) == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError(WORDS), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_what_says_that_memory_ran_out(error: Exception, expected: bool) -> None:
    assert out_of_memory(error) is expected


# --- a limit of the system ------------------------------------------------------------------------------------------

LIMITED = """
import resource, sys
from posttrain import cli
from posttrain.recipes import fitting, sft

fly, room = fitting.fly, int(sys.argv[1])

def limited(*given):
    fly(*given)  # the forecast finds all the memory of the machine; what comes after it does not
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + room, used + room))

fitting.fly = limited
sys.exit(cli.main(sys.argv[2:]))
"""


def limited(room: int, words: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A process of its own whose address space may grow by so many bytes once training begins.

    What it frees goes back to the system at once, so that its address space is what it uses.
    """
    at_once = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment = os.environ | {"OMP_NUM_THREADS": "1", **at_once}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIMITED, str(room), *words],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.fixture(scope="module")
def wide(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A step of 8,030 tokens at width 256, which take about 435 MB in one micro-batch, half of it in two."""
    folder = tmp_path_factory.mktemp("wide")
    shutil.copytree(tiny_model, folder / "model")
    shape = LlamaConfig(
        vocab_size=259, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(folder / "model")
    rows = write_rows(
        folder / "rows.jsonl", [{"prompt": f"{n:02} {'x' * 100}", "completion": "y" * 100} for n in range(37)]
    )
    given = "--steps 1 --batch_size 37 --micro_batch_tokens 8192 --eval_data null --save_every null"
    return ["sft", "--model", str(folder / "model"), "--data", str(rows), *given.split(), "--out", "run"]


@pytest.mark.medium
def test_a_process_that_may_grow_by_half_of_what_it_needs_trains_on(wide: list[str], tmp_path: Path) -> None:
    done = limited(280_000_000, wide, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"out of memory in step 1, which is made again: .* allocate memory", done.stdout)
    assert "micro_batch_tokens 8,192 -> 4,096 from here on: the same method, but not bit for bit" in done.stdout
    assert json.loads((tmp_path / "run" / "run" / "run.json").read_text())["status"] == "done"


@pytest.mark.medium
def test_a_process_that_may_hardly_grow_ends_with_code_3(wide: list[str], tmp_path: Path) -> None:
    done = limited(80_000_000, wide, tmp_path)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "error: out of memory in step 1, before its update, with micro_batch_tokens 4,096: " in done.stderr
    assert "  nothing was saved; the same command begins again\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "run").glob("*.safetensors"))
