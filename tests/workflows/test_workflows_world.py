"""The world is large enough, the same for a seed, and keeps what is held out away from finetuning."""

import re
from collections import Counter, defaultdict

import pytest

from posttrain.workflows.world import lexicon, tasks
from posttrain.workflows.world.generate import Sizes, World, draw_rows, make_world
from posttrain.workflows.world.gold import exact_match, gold_score
from posttrain.workflows.world.templates import FAMILIES, TEMPLATES


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(0, Sizes(texts=3000))


def test_there_are_enough_rows_and_words(world: World) -> None:
    written = " ".join([*world.texts, *(f"{row.prompt} {row.answer}" for row in world.rows["train"])])
    names = {name.lower() for name in lexicon.NAMES}
    assert len({(row.prompt, row.answer) for row in world.rows["train"]}) >= 10_000
    assert len(set(re.findall("[a-z]+", written.lower())) - names) >= 200
    assert len(set(re.findall("[\u4e00-\u9fff]", written))) >= 120


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_eight_templates_and_one_of_them_is_never_finetuned(world: World, family: str) -> None:
    used = {split: {row.template for row in rows if row.family == family} for split, rows in world.rows.items()}
    assert len(used["train"]) >= 8
    assert used["held_out_combination"] <= used["train"]
    assert used["held_out_template"] == {len(TEMPLATES[family]) - 1}
    assert used["held_out_template"].isdisjoint(used["train"])


def test_no_prompt_is_written_twice_and_no_combination_is_both_seen_and_held_out(world: World) -> None:
    rows = [row for split in world.rows.values() for row in split]
    assert len({row.prompt for row in rows}) == len(rows)
    combinations = defaultdict(set)
    for row in rows:
        combinations[row.split].add((row.family, row.combination))
    assert combinations["train"].isdisjoint(combinations["held_out_combination"])
    assert combinations["held_out_template"] <= {(f, c) for f, c in _seen_in_any_template(world)}


def _seen_in_any_template(world: World) -> set[tuple[str, str]]:
    held_out = {(row.family, row.combination) for row in world.rows["held_out_combination"]}
    everything = {(row.family, row.combination) for rows in world.rows.values() for row in rows}
    return everything - held_out


def test_a_fact_held_out_from_finetuning_stands_in_the_plain_text(world: World) -> None:
    text = " ".join(world.texts)
    asked = {row.reference for row in world.rows["held_out_combination"] if row.family == "question"}
    assert len(asked) >= 20
    assert all(statement in text for statement in asked)


def test_no_instruction_stands_in_the_plain_text(world: World) -> None:
    text = "\n".join(world.texts)
    assert not [row.prompt for row in world.rows["train"] if row.prompt in text]


def test_every_written_answer_is_exact_and_right_answers_score_one(world: World) -> None:
    for rows in world.rows.values():
        for row in rows:
            assert exact_match(row.columns(), row.answer)
            assert row.family == "generation" or gold_score(row.columns(), row.answer) == 1


def test_sentences_leave_a_preference_room_above_and_below(world: World) -> None:
    rows = [row for row in world.rows["train"] if row.family == "generation"]
    scores = [gold_score(row.columns(), row.answer) for row in rows]
    assert sum(scores) / len(scores) == pytest.approx(0.65, abs=0.03)
    assert sum(score >= 0.8 for score in scores) / len(scores) < 0.2
    assert {len(row.answer.split()) for row in rows} == {8}


def test_sums_are_right() -> None:
    for _, _, statement in tasks.problems():
        for side, result in re.findall(r"(\d+ [+-] \d+) = (\d+)", statement):
            a, sign, b = side.split()
            assert int(result) == (int(a) + int(b) if sign == "+" else int(a) - int(b))
        for word, pair, result in re.findall(r"the (larger|smaller) of (\d and \d) is (\d)", statement):
            assert int(result) == {"larger": max, "smaller": min}[word](int(pair[0]), int(pair[-1]))


def test_values_of_an_attribute_are_used_about_equally() -> None:
    facts = tasks.make_facts(3)
    assert len(facts) == len(lexicon.NAMES) * len(lexicon.ATTRIBUTES)
    for attribute, values in lexicon.ATTRIBUTES.items():
        counts = Counter(facts[name, attribute] for name in lexicon.NAMES)
        assert set(counts) == set(values)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_shelves_of_one_place_have_equal_size_and_no_word_in_common() -> None:
    for shelves in (lexicon.CREATURE_ADJECTIVES, lexicon.OBJECT_ADJECTIVES, lexicon.ADVERBS):
        assert len({len(shelf) for shelf in shelves}) == 1
        assert len(set().union(*shelves)) == sum(map(len, shelves))


def test_english_and_chinese_are_one_to_one() -> None:
    assert len(lexicon.ENGLISH) == len(lexicon.MEANINGS)


def test_neighbours_are_mutual() -> None:
    for values in lexicon.ATTRIBUTES.values():
        for value in values:
            assert lexicon.neighbour(values, value) != value
            assert lexicon.neighbour(values, lexicon.neighbour(values, value)) == value


def test_a_seed_gives_one_world_and_another_seed_another() -> None:
    sizes = Sizes(texts=50, train=100)
    assert make_world(1, sizes) == make_world(1, sizes)
    assert make_world(1, sizes).rows["train"] != make_world(2, sizes).rows["train"]


def test_drawn_rows_are_half_generation_and_all_different(world: World) -> None:
    drawn = draw_rows(world.rows["held_out_combination"], 320, seed=0)
    counts = Counter(row.family for row in drawn)
    assert counts == {"generation": 161, "question": 53, "translation": 53, "reasoning": 53}
    assert len({row.prompt for row in drawn}) == 320
    assert drawn != draw_rows(world.rows["held_out_combination"], 320, seed=1)


def test_more_rows_than_there_are_is_an_error(world: World) -> None:
    with pytest.raises(ValueError, match="rows of question are wanted"):
        draw_rows(world.rows["held_out_combination"], 10_000, seed=0)
