"""The fingerprint of every step: of every method, of what the files hold, and of what was read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from commands import EVERY, commands, stopped_at_its_end, trained_on
from rows_at_hand import RANKS, conversations, rankings
from safetensors.torch import load_file, save_file
from stages import Stages
from torch import Tensor

from posttrain.cli import main
from posttrain.data.pack import pack
from posttrain.data.rankings import ranked_batch
from posttrain.ops.fingerprints import fingerprints
from posttrain.recipes.fingerprinting import BatchDigest
from posttrain.run import Run
from posttrain.run.differing import diff
from posttrain.run.differing_page import hint
from posttrain.run.fingerprints import FILE, Fingerprints, read_fingerprints
from posttrain.types import Batch


def of(out: Path) -> Fingerprints:
    return read_fingerprints(out / "run" / FILE)


@pytest.mark.medium
@pytest.mark.parametrize("method", EVERY)
def test_every_step_of_every_method_has_one(method: str, stages: Stages, tmp_path: Path) -> None:
    assert main([*commands(stages)[method], "--out", str(tmp_path / "run"), "--quiet"]) == 0
    found, steps = of(tmp_path / "run"), [row["step"] for row in Run(tmp_path / "run").metrics if row["step"]]
    assert [*found.steps] == [0, *steps]
    first, last = found.weights(0), found.weights(steps[-1])
    # the first update of a new adapter moves B alone, since it starts at zero
    assert [name for name in first if first[name] == last[name] and "lora_A" not in name] == []
    assert len({kept.batch for kept in found.steps.values()}) == len(found.steps)


@pytest.mark.medium
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_last_one_is_that_of_the_saved_weights(precision: str, stages: Stages, tmp_path: Path) -> None:
    run = trained_on(stages.chats, stages.base, tmp_path / "run", steps=2, precision=precision)
    saved = load_file(run.path / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}  # the masters, where the model is in bf16
    assert sorted(of(run.path).weights(2).values()) == sorted(fingerprints([*saved.values()]))


def resealed(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    """Changes the weights of a checkpoint, and its manifest with them."""
    file = folder / "weights.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][file.name] = {
        "bytes": file.stat().st_size,
        "sha256": sha256(file.read_bytes()).hexdigest(),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.medium
def test_a_run_that_goes_on_with_other_weights_says_which(stages: Stages, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [*commands(stages)["sft"], "--steps", "3", "--save_every", "1", "--out", str(out), "--quiet"]
    words.remove("--steps")
    words.remove("2")
    stopped_at_its_end(words)
    shutil.rmtree(out / "run" / "checkpoints" / "step-000003")
    name = next(name for name in of(out).names if "embed" in name)

    def change(weights: dict[str, Tensor]) -> None:
        weights[name][-1, -1] += 1

    resealed(out / "run" / "checkpoints" / "step-000002", change)
    assert main(words) == 0
    assert f"the checkpoint's weights are not those of step 2: {name}\n" in (out / "run" / "log.txt").read_text()
    assert [each.get("weights") for each in Run(out).record["resumes"]] == [[name]]
    assert [*of(out).steps] == [0, 1, 2, 3]
    whole = tmp_path / "whole"
    assert main([*words[: words.index("--out")], "--out", str(whole), "--quiet"]) == 0
    found = diff(whole, out)
    assert found.first is not None
    assert (found.first.step, found.first.what, found.first.weights) == (3, ("weights",), (name,))  # a token unread
    assert hint(found).endswith(f"right before, with other weights than it had: {name}")


@pytest.mark.medium
def test_runs_of_one_seed_are_identical_and_one_of_another_parts_at_its_first_batch(
    stages: Stages, tmp_path: Path
) -> None:
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        trained_on(stages.chats, stages.base, tmp_path / out, steps=3, seed=seed)
    same = diff(tmp_path / "a", tmp_path / "b")
    assert same.identical
    assert same.weights is not None
    assert (same.sides[0].steps, same.weights.common) == (3, 21)  # 2 layers of 9 tensors, embedding, norm and head
    other = diff(tmp_path / "a", tmp_path / "c")
    assert dict(other.settings) == {"seed": (0, 1)}
    assert other.first is not None
    assert (other.first.step, other.first.what[0], len(other.first.weights)) == (1, "batch", 21)


# --- the number of a batch --------------------------------------------------------------------------------------------


def number(rows: Sequence[str], *batches: Batch) -> str:
    digest = BatchDigest(rows)
    assert [*digest.through(batches)] == [*batches]
    return digest.number()


def test_the_cut_into_micro_batches_does_not_change_the_number() -> None:
    rows = conversations(6)
    whole = number(["a"], pack(rows))
    assert number(["a"], pack(rows[:2]), pack(rows[2:])) == whole
    ranked = rankings(len(RANKS))
    cut = [ranked_batch(part, ties="soft", pair_weight="pair") for part in (ranked[:1], ranked[1:])]
    assert number([], *cut) == number([], ranked_batch(ranked, ties="soft", pair_weight="pair"))


def test_another_row_order_token_mask_or_rank_changes_it() -> None:
    batch = pack(conversations(3))
    tokens, trained = batch.tokens.clone(), batch.trained.clone()
    tokens[-1] += 1
    trained[-1] = False
    ranked = ranked_batch(rankings(3), ties="soft", pair_weight="pair")
    ranks = ranked.ranks.clone()
    ranks[0] += 1
    numbers = [
        number([]),
        number([], batch),
        number(["a", "b"], batch),
        number(["b", "a"], batch),
        number([], pack(conversations(3)[::-1])),
        number([], replace(batch, tokens=tokens)),
        number([], replace(batch, trained=trained)),
        number([], ranked),
        number([], replace(ranked, ranks=ranks)),
    ]
    assert len(set(numbers)) == len(numbers)
