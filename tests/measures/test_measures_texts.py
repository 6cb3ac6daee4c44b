"""What answers are worth beside references: numbers by hand, other people's scripts, and the libraries themselves."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_bleu, corpus_chrf

from posttrain.measures.texts import (
    Rules,
    exact_match,
    extracted,
    last_number,
    measured,
    token_f1,
    tokenizer_for,
    words,
)
from posttrain.ops.statistics import wilson

SAID = ["The cat sat on the mat.", "a dog barked", "It rains in Spain"]
WANTED = [("The cat is on the mat.",), ("The dog barked loudly", "a dog barked twice"), ("Sun shines",)]


def value(measure: str, answers: list[str], references: list[tuple[str, ...]], **rules: str) -> float:
    return measured([measure], answers, references, Rules(**rules))[measure].value  # type: ignore[arg-type]


# --- what is compared -------------------------------------------------------------------------------------------


def test_only_what_follows_the_last_marker_is_compared() -> None:
    assert extracted("2 + 2 #### 5, no: #### 4 ", "####") == "4"
    assert extracted("four", "####") is None
    assert extracted(" four\n", None) == "four"


def test_an_answer_without_the_marker_is_wrong_and_its_reasoning_does_not_count() -> None:
    answers = ["so 18 eggs\n#### 18", "#### 17, or 18", "18"]
    assert value("exact_match", answers, [("9 + 9 = 18\n#### 18",)] * 3, after="####") == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It costs $1,234.50.", "1234.50"), ("from 3 to -7", "-7"), ("7-3", "3"), ("page-3", "3"), ("\u22125", "-5"),
        (".5 of it", ".5"), ("none", None), ("18.", "18"),
    ],
)  # fmt: skip
def test_the_last_number_of_a_text(text: str, number: str | None) -> None:
    assert last_number(text) == (None if number is None else Decimal(number))


def test_normalisation_makes_exact_match_more_lenient_in_its_own_way() -> None:
    assert not exact_match("The Eiffel Tower!", "eiffel tower")
    assert exact_match("The Eiffel Tower!", "eiffel tower", "squad")
    assert exact_match("$1,000.00 in all", "1000", "number")
    assert not exact_match("1000 and 1", "1000", "number")
    assert exact_match(" yes\n", "yes")


# --- numbers ----------------------------------------------------------------------------------------------------


def test_token_f1_by_hand() -> None:
    # cat sat on mat / cat is on mat: three tokens shared of four and four
    assert token_f1(SAID[0], WANTED[0][0]) == pytest.approx(2 * 3 / 8)
    # repeated words count as often as both have them
    assert token_f1("no no no", "no no yes") == pytest.approx(2 * 2 / 6)
    assert (token_f1("the", "an"), token_f1("", "word"), token_f1("word", "")) == (1.0, 0.0, 0.0)


def test_token_f1_of_chinese_counts_characters() -> None:
    assert token_f1("我喜欢猫。", "我喜欢狗") == pytest.approx(2 * 3 / 8)


def test_the_best_of_several_references_counts() -> None:
    assert value("token_f1", SAID, WANTED) == pytest.approx((6 / 8 + 2 * 2 / 5 + 0) / 3)


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL"])
def test_rouge_on_ascii_is_the_librarys_own(name: str) -> None:
    own = RougeScorer([name])
    best = [
        max(own.score(text, said)[name].fmeasure for text in texts) for said, texts in zip(SAID, WANTED, strict=True)
    ]
    assert value(name, SAID, WANTED) == pytest.approx(sum(best) / 3)


def test_rouge_reads_letters_that_the_library_leaves_out() -> None:
    assert RougeScorer(["rouge1"]).score("我喜欢猫", "我喜欢猫")["rouge1"].fmeasure == 0
    assert value("rouge1", ["我喜欢猫"], [("我喜欢狗",)]) == pytest.approx(3 / 4)
    assert words("Größe, हिन्दी_1!") == ["größe", "हिन्दी", "1"]


def test_bleu_and_chrf_are_sacrebleus_of_the_whole_corpus() -> None:
    first, second = [texts[0] for texts in WANTED], [texts[1] if len(texts) > 1 else None for texts in WANTED]
    assert value("bleu", SAID, WANTED) == pytest.approx(corpus_bleu(SAID, [first, second]).score)
    assert value("chrf", SAID, WANTED) == pytest.approx(corpus_chrf(SAID, [first, second]).score)


def test_chinese_bleu_needs_its_tokenizer_which_is_chosen_with_a_reason() -> None:
    answers, references = ["我喜欢吃苹果和香蕉"], [("我喜欢吃苹果和梨",)]
    assert tokenizer_for(["我喜欢猫", "cats"])[0] == "zh"
    assert tokenizer_for(["ねこが好き"])[0] == "char"
    assert tokenizer_for(["Ich mag Käse"])[0] == "13a"
    assert value("bleu", answers, references) == pytest.approx(0, abs=1e-6)
    assert value("bleu", answers, references, tokenizer="zh") > 50


# --- intervals --------------------------------------------------------------------------------------------------


def test_a_share_has_the_interval_of_wilson() -> None:
    found = measured(["exact_match"], ["a", "b", "c", "d"], [("a",), ("b",), ("x",), ("d",)], Rules())["exact_match"]
    assert (found.value, found.count) == (0.75, 4)
    assert found.interval == wilson(3, 4)


@pytest.mark.parametrize("name", ["token_f1", "rougeL", "bleu", "chrf"])
def test_an_interval_holds_its_value_and_narrows_with_more_answers(name: str) -> None:
    few = measured([name], SAID, WANTED, Rules())[name]  # type: ignore[list-item]
    many = measured([name], SAID * 20, WANTED * 20, Rules())[name]  # type: ignore[list-item]
    assert few.interval[0] <= few.value <= few.interval[1]
    assert many.value == pytest.approx(few.value)
    assert many.interval[1] - many.interval[0] < few.interval[1] - few.interval[0]


def test_no_answers_have_no_measure() -> None:
    with pytest.raises(ValueError, match="no answers"):
        measured(["bleu"], [], [], Rules())


# --- a real task ------------------------------------------------------------------------------------------------


def test_labelled_solutions_of_gsm8k_are_right_where_their_last_number_is(shared: Path) -> None:
    path = shared / "data" / "gsm8k" / "example_model_solutions.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:200]]
    solutions = [
        (part["solution"], row["ground_truth"], part["is_correct"])
        for row in rows
        for part in row.values()
        if isinstance(part, dict) and "is_correct" in part
    ]
    right = [
        exact_match(extracted(said, "A:") or "", extracted(truth, "A:") or "", "number") for said, truth, _ in solutions
    ]
    agree = sum(found == labelled for found, (_, _, labelled) in zip(right, solutions, strict=True))
    assert len(solutions) == 800
    assert agree == 800
