"""The row of generation: what all sides are given, and what their answers come to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks import generate
from benchmarks.frame import generation, texts
from benchmarks.frame.sizes import Size, write_model

SMALL = Size(hidden=16, layers=2, heads=2, kv_heads=2, intermediate=32, vocabulary=400, tied=True)


@pytest.fixture
def few_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [f"How much is {number} and {number + 1}{', please' * (number % 3)}?" for number in range(80)]
    monkeypatch.setattr(texts, "answers", lambda: [(question, "It is that.") for question in asked])
    monkeypatch.setattr(texts, "pairs", lambda: [(question, "It is that.", "It is not.") for question in asked])


@pytest.mark.parametrize("tied", [True, False])
def test_the_end_token_gets_one_probability_at_every_place(few_texts: None, tmp_path: Path, tied: bool) -> None:
    words = tmp_path / "words"
    texts.write_tokenizer(words, vocabulary=SMALL.vocabulary)
    size = Size(hidden=16, layers=2, heads=2, kv_heads=2, intermediate=32, vocabulary=400, tied=tied)
    write_model(tmp_path / "model", size, words)
    generation.set_ending(tmp_path / "model", 1 / 20, generation.prompts_of(words, 4))
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = torch.randint(3, 400, (4, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        shares = model(ids).logits.softmax(-1)[..., model.config.eos_token_id]
    assert float(shares.mean()) == pytest.approx(1 / 20, rel=0.15)
    assert float(shares.std()) < 0.2 / 20


def test_one_prompt_alone_is_the_longest(few_texts: None, tmp_path: Path) -> None:
    texts.write_tokenizer(tmp_path, vocabulary=400)
    many = generation.prompts_of(tmp_path, 64)
    assert len(many) == 64
    assert generation.prompts_of(tmp_path, 1) == [max(many, key=len)]


def test_tokens_behind_the_end_are_not_useful() -> None:
    assert generation.useful([5, 6, 1, 2, 2], end=1) == 3
    assert generation.useful([5, 6, 7], end=1) == 3


def test_the_first_run_of_a_process_is_not_counted() -> None:
    facts = {"seconds": [100.0, 2.0, 4.0], "cpu": [100.0, 4.0, 8.0], "lengths": [[9], [3, 5], [4, 4]], "growth": 7}
    found = generation.summary([facts])
    assert (found["tokens_per_second"].least, found["tokens_per_second"].most) == (2.0, 4.0)
    assert found["cpu_milliseconds"].median == 750.0  # 4 s for 8 tokens, and 8 s for 8
    assert (found["length"], found["longest"]) == (4.0, 5)


def test_ours_is_told_as_a_multiple_of_each_other_side() -> None:
    def side(rate: float, growth: float) -> dict[str, Any]:
        facts = {"seconds": [1.0, 1.0], "cpu": [1.0, 1.0], "lengths": [[1], [int(rate)]], "growth": growth}
        return generation.summary([facts])

    found = generate.ratios({"uniform": {"posttrain": side(30, 2), "HF": side(10, 8), "vLLM": side(40, 1)}})
    assert found["uniform against HF, times"] == 3.0
    assert found["uniform against HF, growth"] == 0.25
    assert found["uniform against vLLM, times"] == 0.75


def test_vllm_is_left_out_where_it_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POSTTRAIN_PEERS", str(tmp_path))
    assert generate.there(["vLLM", "HF", "posttrain"]) == ["posttrain", "HF"]
    assert "benchmarks peers vllm-0.32" in capsys.readouterr().out
    python = tmp_path / "vllm-0.32" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert generate.there(["vLLM", "HF", "posttrain"]) == ["posttrain", "HF", "vLLM"]


@pytest.mark.medium
def test_both_sides_answer_greedily_with_the_same_tokens(few_texts: None, here: None, tmp_path: Path) -> None:
    words = tmp_path / "words"
    texts.write_tokenizer(words, vocabulary=SMALL.vocabulary)
    write_model(tmp_path / "model", SMALL, words)
    case = generation.Case(prompts=5, samples=1, longest=6)
    told = {
        side: generation.run(tmp_path, side, case, precision="fp32", runs=1, greedy=True)
        for side in ("posttrain", "HF")
    }
    assert told["posttrain"]["tokens"] == told["HF"]["tokens"]
    assert [len(answer) for answer in told["HF"]["tokens"]] == [6] * 5
    for facts in told.values():
        assert generation.summary([facts])["length"] == 6.0
        assert len(facts["seconds"]) == len(facts["lengths"]) == 2
