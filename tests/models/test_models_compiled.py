"""Compiled layers: the results of plain ones, compiled once for every number of tokens, and said where that fails."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextvars import copy_context
from pathlib import Path
from threading import Thread
from typing import cast

import pytest
import torch
from architectures import PACKED, attending_by_layout, packed_groups, tiny
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.utils import counters
from transformers import PreTrainedModel

from posttrain.errors import ModelError
from posttrain.models import compiled, compiled_gate
from posttrain.models.adapters import LoraSpec, attach
from posttrain.models.blocks import attend_by_blocks
from posttrain.models.checkpointing import checkpoint_activations
from posttrain.models.compiled import check_compiler, compile_layers, explained, plainly
from posttrain.models.compiled_gate import gate_compiled
from posttrain.models.heads import Policy
from posttrain.models.parity import gate_policy, random_batch
from posttrain.models.precision import into_bf16
from posttrain.types import TokenBatch, moved

pytestmark = pytest.mark.medium


def unheard(text: str) -> None:
    raise AssertionError(text)


def made(family: str = "llama", *, tell: Callable[[str], None] = unheard, **changes: object) -> Policy:
    """A policy all of whose weights are trained, its layers compiled."""
    model = tiny(family, **changes)
    attending_by_layout(model)
    compile_layers(model, tell)
    return Policy(model)


@pytest.fixture(scope="module", autouse=True)
def traced() -> Iterator[None]:
    """Layers are traced, cut at attention, differentiated and guarded as ever, but no C++ is made of them.

    That takes seconds a piece; `inductor` is for the tests that are about it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "BACKEND", "aot_eager")
        yield


@pytest.fixture
def inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers become C++."""
    monkeypatch.setattr(compiled, "BACKEND", "inductor")


@pytest.fixture(scope="module")
def policy(traced: None) -> Policy:
    """One for all tests that change nothing of it: what it compiled serves them all."""
    return made()


def found(policy: Policy, batch: TokenBatch) -> list[torch.Tensor]:
    """Log-probs of a batch, and the gradient of every trained weight."""
    trained = [part for part in policy.parameters() if part.requires_grad]
    logprobs = policy(batch).logprobs
    gradients = torch.autograd.grad(logprobs.sum(), trained, allow_unused=True, materialize_grads=True)
    return [logprobs.detach(), *gradients]


def same(policy: Policy, batch: TokenBatch, *, tolerance: float = 1e-5) -> int:
    """How many numbers are told of a batch; compiled they differ from plain ones by rounding alone."""
    with plainly():
        wanted = found(policy, batch)
    numbers = found(policy, batch)
    for mine, plain in zip(numbers, wanted, strict=True):
        torch.testing.assert_close(mine, plain, rtol=tolerance, atol=tolerance * float(plain.abs().max()))
    return len(numbers)


def ragged(model: PreTrainedModel, count: int) -> Iterator[TokenBatch]:
    """Batches of one to six sequences, no two of one shape but by chance."""
    chance = torch.Generator().manual_seed(1)
    for _ in range(count):
        rows = int(torch.randint(1, 7, (1,), generator=chance))
        lengths = torch.randint(2, 60, (rows,), generator=chance).tolist()
        yield random_batch(model, lengths, [-1] * rows)


def graphs() -> int:
    """How many pieces of code have been compiled so far."""
    return counters["stats"]["unique_graphs"]


def compiled_more(policy: Policy, count: int) -> int:
    """How many pieces were compiled in so many ragged steps after the gate."""
    gate_compiled(policy.trunk)
    before = graphs()
    for batch in ragged(policy.model, count):
        policy(batch).logprobs.sum().backward()
    return graphs() - before


def off_by(policy: Policy) -> float:
    """How far the gate finds compiled layers from plain ones; nothing can be compared under dropout, which gpt2 has."""
    return gate_compiled(policy.trunk) or 0.0


def test_log_probs_and_gradients_are_those_of_plain_layers(policy: Policy) -> None:
    assert same(policy, packed_groups()) > 10


def test_forty_ragged_steps_compile_at_most_eight_times(policy: Policy) -> None:
    assert graphs() > 0
    assert compiled_more(policy, 40) <= 8


@pytest.mark.slow
def test_what_the_compiler_makes_of_layers_has_the_numbers_of_plain_ones(inductor: None) -> None:
    policy = made()
    assert same(policy, packed_groups()) > 10
    assert compiled_more(policy, 30) <= 8


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True])
def test_a_thousand_ragged_steps_compile_at_most_eight_times(half: bool, inductor: None) -> None:
    policy = made()
    if half:
        into_bf16(policy.model, trained=True)
    assert compiled_more(policy, 1000) <= 8


@pytest.mark.slow
def test_the_layers_of_one_shape_share_what_is_compiled(policy: Policy) -> None:
    gate_compiled(policy.trunk)
    before = graphs()
    deep = made(num_hidden_layers=5)
    gate_compiled(deep.trunk)
    few = graphs() - before
    before = graphs()
    gate_compiled(made(num_hidden_layers=2).trunk)
    assert few == graphs() - before > 0


def test_names_of_weights_are_as_they_were(policy: Policy) -> None:
    assert list(policy.model.state_dict()) == list(tiny("llama").state_dict())


@pytest.mark.slow
def test_the_gate_of_parity_passes_with_compiled_layers(policy: Policy) -> None:
    before = graphs()
    assert gate_policy(policy, "sdpa").packing
    assert graphs() > before  # for passes without gradients
    assert off_by(policy) < 1e-5


@pytest.mark.slow
def test_layers_may_run_twice() -> None:
    policy = made()
    checkpoint_activations(policy.model)
    assert same(policy, packed_groups()) > 10


def test_backward_in_another_thread_runs_layers_again_as_they_ran_first() -> None:
    policy = made()
    checkpoint_activations(policy.model)
    with plainly():
        loss = policy(packed_groups()).logprobs.sum()
    before = graphs()
    other = Thread(target=loss.backward)  # as on a GPU
    other.start()
    other.join()
    assert graphs() == before
    assert any(part.grad is not None for part in policy.parameters())


def test_passes_leave_nothing_behind_in_their_thread(policy: Policy) -> None:
    policy(packed_groups())
    before = len(copy_context())
    for _ in range(3):
        policy(packed_groups()).logprobs.sum().backward()
    assert len(copy_context()) == before


@pytest.mark.slow
def test_adapters_of_two_roles_have_code_of_their_own() -> None:
    policy = made()
    for name in ("one", "other"):
        for part in attach(policy.model, name, LoraSpec(rank=4, alpha=8)):
            torch.nn.init.normal_(part, std=0.1)
    for stack in (("one",), ("one", "other"), ()):
        role = Policy(policy.model, stack=stack)
        with torch.no_grad(), plainly():
            wanted = role(packed_groups()).logprobs
        with torch.no_grad():
            torch.testing.assert_close(role(packed_groups()).logprobs, wanted, rtol=1e-5, atol=1e-5)
    assert same(Policy(policy.model, stack=("one", "other")), packed_groups()) > 10


@pytest.mark.slow
def test_weights_in_bf16_learn_as_close_to_plain_ones_as_their_rounding() -> None:
    policy = made()
    into_bf16(policy.model, trained=True)
    assert same(policy, packed_groups(), tolerance=0.05) > 10
    assert off_by(policy) < 0.05


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_attention_by_blocks_stays_outside(policy: Policy) -> None:
    with torch.no_grad():
        wanted = policy(packed_groups()).logprobs
        attend_by_blocks(policy.trunk.model, on=True)
        found = policy(packed_groups()).logprobs
        attend_by_blocks(policy.trunk.model, on=False)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", PACKED)
def test_every_family_passes_the_gate(family: str) -> None:
    assert off_by(made(family)) < 1e-4


def test_a_layer_that_would_be_compiled_too_often_runs_plainly_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiled, "VERSIONS", 1)
    said: list[str] = []
    policy = made(tell=said.append)
    checkpoint_activations(policy.model)
    with torch.no_grad():
        policy(packed_groups())
    assert said == []
    assert same(policy, packed_groups()) > 10
    assert said == ["compile: LlamaForCausalLM needs more than 1 versions of a layer; further ones run uncompiled"]


def broken(*given: object, **named: object) -> object:
    raise RuntimeError("no compiler\nand much more")


def test_a_compiler_that_fails_ends_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "BACKEND", broken)
    policy = made()
    wanted = "LlamaForCausalLM: its layers cannot be compiled: no compiler\n  fix: leave compile out"
    with pytest.raises(ModelError, match=f"^{wanted}$"):
        gate_policy(policy, "sdpa")
    with pytest.raises(ModelError, match=f"^{wanted}$"):
        gate_compiled(policy.trunk)
    with pytest.raises(ModelError, match="compile does not work on cpu: no compiler\n  fix: leave compile out, or"):
        check_compiler(torch.device("cpu"))


@pytest.mark.slow
def test_torn_files_of_a_compiler_that_was_killed_are_named(tmp_path: Path) -> None:
    asked = "from posttrain.models.compiled import check_compiler; import torch; check_compiler(torch.device('cpu'))"
    kept = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}

    def said() -> str:
        done = subprocess.run([sys.executable, "-c", asked], env=kept, capture_output=True, text=True, check=False)
        return done.stderr

    assert said() == ""
    files = list(tmp_path.rglob("*.so"))
    for file in files:
        file.write_bytes(file.read_bytes()[:7])
    assert files
    assert f"\n  fix: remove {tmp_path}, where earlier compiled code is kept, or leave compile out" in said()


def test_a_way_back_that_cannot_be_compiled_ends_with_what_to_do() -> None:
    with (
        pytest.raises(ModelError, match=r"^layers cannot be compiled: no compiler\n  fix: leave compile out$"),
        explained("layers"),
    ):
        raise BackendCompilerFailed(torch.compile, RuntimeError("no compiler"), None)


def test_layers_that_differ_from_plain_ones_are_refused(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_gate, "TOLERANCE", 1e-12)
    with pytest.raises(ModelError, match=r"LlamaModel: compiled layers differ from plain ones by \d\.\de-\d\d\n  fix"):
        gate_compiled(policy.trunk)


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(ModelError, match="Linear has no layers that can be compiled"):
        compile_layers(cast("PreTrainedModel", tiny("llama").lm_head), unheard)


@pytest.mark.gpu
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("twice", [False, True])
def test_on_a_gpu_compiled_layers_are_plain_ones_and_compiled_once(
    half: bool, blocks: bool, twice: bool, inductor: None
) -> None:
    policy = made(num_hidden_layers=4)
    if twice:  # backward is in another thread there
        checkpoint_activations(policy.model)
    policy.cuda()
    if half:
        into_bf16(policy.model, trained=True)
    attend_by_blocks(policy.trunk.model, on=blocks)
    assert same(policy, moved(packed_groups(), "cuda"), tolerance=0.1 if half else 2e-3) > 10
    assert compiled_more(policy, 50) <= 8
