"""Names of models that are no folders here, and a hub that does not answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from posttrain import hub
from posttrain.errors import ModelError
from posttrain.text.tokenizer import load_tokenizer


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub at an address where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound without listening: every connection is refused
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        hub._answers.cache_clear()  # pyright: ignore[reportPrivateUsage]  # what was asked of another address
        yield
    hub._answers.cache_clear()  # pyright: ignore[reportPrivateUsage]  # as above


def test_a_name_without_an_owner_is_no_folder_and_the_nearest_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "sft").mkdir(parents=True)
    (tmp_path / "llama").mkdir()
    with pytest.raises(ModelError, match=r"^nowhere: no such model folder\n  fix: .* as owner/name$"):
        hub.check_model_name("nowhere")
    with pytest.raises(ModelError, match=r"^lama: no such model folder; did you mean llama\?\n"):
        load_tokenizer("lama")
    with pytest.raises(ModelError, match=r"^runs/stf: no such model folder; did you mean runs/sft\?\n"):
        load_tokenizer("runs/stf")
    hub.check_model_name("owner/name")


def test_a_model_of_a_hub_that_does_not_answer_is_said_to_be_neither_here_nor_there(
    nobody: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("tried again"))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    with pytest.raises(
        ModelError, match=r"^owner/name: no such model folder, and the hub cannot be reached [^$]*fix: "
    ):
        load_tokenizer("owner/name")


def test_the_libraries_are_as_they_were_once_the_hub_was_asked(nobody: None) -> None:
    was = constants.HF_HUB_OFFLINE
    with hub.hub_or_cache() as answers:
        assert not answers
        assert constants.HF_HUB_OFFLINE
    assert was == constants.HF_HUB_OFFLINE
