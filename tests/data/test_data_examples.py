"""Records to groups of bounded length: every loss is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from posttrain.data.examples import RankedItem, ranked_within, within
from posttrain.errors import DataError
from posttrain.types import Message, PrefixGroup, RankedRecord, Span


def group(length: int, *, trained_from: int = 1, name: str = "row") -> PrefixGroup:
    marks = tuple(place >= trained_from for place in range(length))
    return PrefixGroup(id=name, root=Span(tokens=tuple(range(length)), trained=marks))


def test_overlong_conversations_are_dropped_cut_or_refused_and_counted() -> None:
    rows = [group(5), group(9), group(7, trained_from=6), group(6)]
    kept, losses = within(rows, 6, "drop")
    assert (kept, losses) == ([rows[0], rows[3]], Counter({"overlong": 2}))
    kept, losses = within(rows, 6, "truncate")
    assert [row.root.tokens for row in kept] == [tuple(range(5)), tuple(range(6)), tuple(range(6))]
    assert losses == Counter({"truncated": 2, "nothing trained": 1})
    with pytest.raises(DataError, match=r"(?s)2 problems.*9 tokens are more than max_length 6.*fix: raise max_length"):
        within(rows, 6, "error")


def test_a_conversation_without_a_trained_token_is_left_out_and_counted() -> None:
    assert within([group(4, trained_from=9)], 10, "drop") == ([], Counter({"nothing trained": 1}))


def ranking(
    answers: Sequence[str], ranks: tuple[int | None, ...], *, prompt: str = "pp", weight: float = 1.0
) -> tuple[RankedRecord, PrefixGroup]:
    """A ranking whose tokens are its letters."""
    record = RankedRecord(
        id="row", prompt=(Message(role="user", content=prompt),), responses=tuple(answers), ranks=ranks, weight=weight
    )
    branches = tuple(Span.all([ord(letter) for letter in answer], trained=True) for answer in answers)
    root = Span.all([ord(letter) for letter in prompt], trained=False)
    return record, PrefixGroup(id="row", root=root, branches=branches)


def fitted(
    *rows: tuple[RankedRecord, PrefixGroup], limit: int = 6, overlong: str = "drop"
) -> tuple[list[RankedItem], Counter[str]]:
    mode = "truncate" if overlong == "truncate" else "error" if overlong == "error" else "drop"
    return ranked_within([record for record, _ in rows], [tokens for _, tokens in rows], limit, mode)


def words(item: RankedItem) -> list[str]:
    return ["".join(map(chr, branch.tokens)) for branch in item.group.branches]


def test_answers_that_are_too_long_are_left_out_and_the_others_stay_ranked() -> None:
    [item], losses = fitted(ranking(["abcdef", "ab", "cd"], (1, 2, 3)))
    assert (words(item), item.ranks) == (["ab", "cd"], (2, 3))
    assert losses == Counter({"answers too long": 1})


def test_answers_made_identical_by_cutting_contribute_nothing_and_are_counted() -> None:
    items, losses = fitted(ranking(["abcdX", "abcdY"], (1, 2)), overlong="truncate")
    assert items == []
    assert losses == Counter({"answers truncated": 2, "identical answers": 1, "rankings without a strict pair": 1})


def test_of_identical_answers_the_better_ranked_one_stays_in_its_place() -> None:
    [item], losses = fitted(ranking(["x", "abcdX", "abcdY", "q"], (3, 2, 1, None)), overlong="truncate")
    assert (words(item), item.ranks) == (["x", "abcd", "q"], (3, 1, None))
    assert losses == Counter({"answers truncated": 2, "identical answers": 1})


def test_a_ranking_of_ties_only_or_of_no_weight_is_left_out() -> None:
    items, losses = fitted(ranking(["a", "b"], (1, 1)), ranking(["a", "b"], (1, 2), weight=0.0))
    assert (items, losses) == ([], Counter({"rankings without a strict pair": 1, "rankings of weight 0": 1}))


def test_a_prompt_that_leaves_no_room_is_counted() -> None:
    assert fitted(ranking(["a", "b"], (1, 2), prompt="pppppp")) == ([], Counter({"prompts too long": 1}))


def test_a_length_is_an_error_where_that_is_asked_for() -> None:
    with pytest.raises(DataError, match="row  8 tokens are more than max_length 6"):
        fitted(ranking(["abcdef", "b"], (1, 2)), overlong="error")


def test_an_item_carries_what_the_record_said() -> None:
    record, tokens = ranking(["a", "b"], (2, 1), weight=3.0)
    [item], losses = fitted((record, tokens))
    assert (item.weight, item.margin, item.annotator, item.reference, item.ranks) == (3.0, 0.0, None, None, (2, 1))
    assert not losses
    assert len(item) == 4
