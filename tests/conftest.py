"""What every test may ask for: one thread, a fixed seed, and the shared models and data where they exist."""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fuzzing.small_model import write_model
from killing import Nursery
from stages import Stages, build

from posttrain.recipes import setup
from posttrain.workflows import reporting

REPOSITORY = Path(__file__).resolve().parent.parent
ON_GPU = "POSTTRAIN_TEST_GPU" in os.environ
LONG = (
    "test_kills.py",
    "test_docs.py",
    "test_workflows_rlhf_killed.py",
    "test_workflows_rlhf.py",
    "test_fuzz.py",
    "test_cli.py",
    "test_benchmarks_generation.py",
    "test_benchmarks_rounds.py",
    "test_mutation.py",
    "test_faults.py",
    "test_data_tables.py",
)
"""Files whose tests take long though they are few, the longest first."""
WRITING = {name: getattr(reporting, name) for name in ("at_end", "together")}

if not ON_GPU:  # expected values are those of a CPU in float32; processes that tests start see no GPU either
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
torch.set_num_threads(1)
# What is compiled is compiled here: processes that wait for such work would have to import torch first.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
# Started in the background by a shell that waits for nothing, a process ignores Ctrl-C, and so do all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files begin first, so that workers end together. Tests that need a GPU say so where none is asked for."""
    longer = Counter(item.path for item in items if item.get_closest_marker("medium") is not None)
    first = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: (first.get(item.path.name, len(LONG)), -longer[item.path]))
    reason = "needs a GPU: `make gpu-check` runs it"
    for item in items:
        if item.get_closest_marker("gpu") is not None and not (ON_GPU and torch.cuda.is_available()):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, whichever ran before it."""
    if ON_GPU:
        torch.manual_seed(0)
    else:  # that of the CPU alone: looking for devices to seed takes two milliseconds, of each of thousands of tests
        torch.default_generator.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def quick_to_collect() -> None:
    """What is there before a file's tests is not looked through each time that a run of theirs collects garbage.

    That is half a second for all that torch and transformers have, and each run collects twice.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tokens that tests keep stay away from those of the user, in this process and in the ones that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSTTRAIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_pages() -> Iterator[None]:
    """Runs of tests leave no pages behind, which are 5 MB each: `pages` asks for them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("at_end", "together"):
            patch.setattr(reporting, name, lambda *_, **__: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def short_samples() -> Iterator[None]:
    """Answers that a run shows end after 16 tokens, not 256: they would be most of the time of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "SAMPLE_TOKENS", 16)
        yield


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this test write their pages, as they do outside of tests."""
    for name, write in WRITING.items():
        monkeypatch.setattr(reporting, name, write)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared models and data beside the checkout; the test is skipped where it is absent."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the shared models and data in {folder}, which are not part of the repository")
    return folder


@pytest.fixture(scope="session")
def stories_model(shared: Path) -> Path:
    """A model folder with real weights: 260 thousand parameters, trained on children's stories."""
    folder = shared / "models" / "stories260k"
    if not folder.is_dir():
        pytest.skip(f"needs the model in {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a two-layer Llama of random weights and a tokenizer of single bytes; not to be written to."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    write_model(folder)
    return folder


@pytest.fixture(scope="session")
def stages(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """The stages before PPO, DPO and the loop; nothing may be written into them."""
    return build(tmp_path_factory.mktemp("stages"), tiny_model)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Where processes are started that are to be killed."""
    opened = Nursery()
    yield opened
    opened.close()
