"""The gold score keeps right, nearly right, wrong and malformed apart, and does not pay for length."""

import pytest

from posttrain.workflows.world import lexicon
from posttrain.workflows.world.gold import exact_match, gold_score, well_formed

QUESTION = {"family": "question", "kind": "colour", "reference": "The colour of Ada is red.", "words": []}
TO_CHINESE = {"family": "translation", "kind": "to Chinese", "reference": "好的汤", "words": []}
TO_ENGLISH = {"family": "translation", "kind": "to English", "reference": "the cat sees the dog", "words": []}
SUM = {"family": "reasoning", "kind": "two steps", "reference": "3 + 4 = 7, 7 + 2 = 9.", "words": []}
SENTENCE = {"family": "generation", "kind": "creature", "reference": "", "words": ["cat", "dog"]}


@pytest.mark.parametrize(
    ("row", "right", "near", "wrong", "malformed"),
    [
        (QUESTION, *(f"The colour of Ada is {end}" for end in ("red.", "pink.", "blue.", "red red."))),
        (QUESTION, *(f"The colour of {end}." for end in ("Ada is red", "Ada is pink", "Ada is blue", "Ben is red"))),
        (TO_CHINESE, "好的汤", "一般的汤", "差的汤", "汤好好好"),
        (TO_ENGLISH, "the cat sees the dog", "the cat sees the fox", "the fox finds the cat", "cat cat cat cat"),
        (SUM, "3 + 4 = 7, 7 + 2 = 9.", "3 + 4 = 7, 7 + 2 = 8.", "3 + 4 = 9, 9 + 2 = 12.", "9"),
    ],
)  # fmt: skip
def test_right_is_above_near_above_wrong_above_malformed(row, right, near, wrong, malformed) -> None:
    scores = [gold_score(row, answer) for answer in (right, near, wrong, malformed)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == 1
    assert scores[1] > scores[2] > scores[3] == 0
    assert exact_match(row, right)
    assert not exact_match(row, near)


def test_good_as_fair_is_graded_above_good_as_bad() -> None:
    assert gold_score(TO_CHINESE, "一般的汤") > gold_score(TO_CHINESE, "差的汤")


def test_a_warm_sentence_is_preferred_to_a_plain_one_and_that_to_a_cold_one_of_the_same_length() -> None:
    warm = "The kind cat gently meets the happy dog."
    plain = "The tall cat slowly meets the young dog."
    cold = "The rude cat coldly meets the angry dog."
    assert [gold_score(SENTENCE, answer) for answer in (warm, plain, cold)] == pytest.approx([1.0, 0.65, 0.3])
    assert len({len(answer.split()) for answer in (warm, plain, cold)}) == 1


def test_a_describing_word_used_twice_costs() -> None:
    twice = gold_score(SENTENCE, "The kind cat gently meets the kind dog.")
    assert twice == pytest.approx(0.8)


@pytest.mark.parametrize(
    "answer",
    [
        "The kind cat gently meets the happy fox.",
        "The kind cat gently meets the happy dog. The kind cat gently meets the happy dog.",
        "The kind kind cat gently meets the happy dog.",
        "The kind cat gently takes the happy dog.",
        "The lovely cat gently meets the happy dog.",
        "kind kind kind kind gently gently cat dog",
        "",
    ],
)
def test_a_sentence_outside_the_grammar_or_without_its_words_is_malformed(answer: str) -> None:
    assert not well_formed(["cat", "dog"], answer)
    assert gold_score(SENTENCE, answer) == 0
    assert not exact_match(SENTENCE, answer)


def test_two_creatures_may_come_in_either_order() -> None:
    assert well_formed(["cat", "dog"], "The kind dog gently meets the happy cat.")
    assert not well_formed(["cat", "lake"], "The lovely lake gently sees the happy cat.")


@pytest.mark.parametrize("row", [QUESTION, TO_CHINESE, TO_ENGLISH, SUM, SENTENCE])
def test_an_answer_that_does_not_end_scores_nothing(row) -> None:
    answer = row["reference"] or "The kind cat gently meets the happy dog."
    assert gold_score(row, answer) == 1
    assert gold_score(row, answer, ended=False) == 0
    assert not exact_match(row, answer, ended=False)


def test_every_word_is_read_back_from_its_chinese() -> None:
    for word, meaning in lexicon.MEANINGS.items():
        row = {"family": "translation", "kind": "to Chinese", "reference": meaning, "words": []}
        shelf = next(shelf for shelf in lexicon.SHELVES if word in shelf)
        other = next(zh for zh in shelf.values() if zh != meaning)
        assert gold_score(row, other) > 0
