"""The example on stories: its parts by hand-made cases, and the whole of it for a few steps on the real model."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from examples.stories import texts
from examples.stories.gold import distinct_share, gold_of, sentiment
from examples.stories.instructions import LONGEST, askable_words, cut_stories, make_instructions
from examples.stories.rankings import SCALE, rank_pool
from examples.stories.run import main
from examples.stories.texts import load_stories
from posttrain.errors import DataError
from posttrain.ops.ranking import pairs_from_ranks


@pytest.fixture(scope="module")
def letters(tiny_model: Path) -> PreTrainedTokenizerFast:
    """A tokenizer with one token a letter, so that tokens are counted by hand."""
    return PreTrainedTokenizerFast.from_pretrained(tiny_model)


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# --- instructions -------------------------------------------------------------------------------------------------


def test_a_short_story_stays_whole_and_a_long_one_ends_with_a_sentence(letters: PreTrainedTokenizerFast) -> None:
    short = 'The cat said, "Hello!" It was glad.'
    sentence = "The small dog ran to the park. "
    assert cut_stories([short, sentence * 20], letters)[0] == short
    # 31 letters a sentence: the drawn limit of 64 to 160 leaves two to five of them
    assert cut_stories([sentence * 20], letters)[0] in {(sentence * count).strip() for count in (2, 3, 4, 5)}


def test_a_cut_story_ends_at_a_sentence_end_that_the_story_has(letters: PreTrainedTokenizerFast) -> None:
    story = 'Tom ate 3.5 pies. "Why?" said Mia. He was so hungry! Then they sang, and Mr. Bear sang too. ' * 3
    variants = [f"Day {number}. {story}" for number in range(40)]
    for whole, cut in zip(variants, cut_stories(variants, letters), strict=True):
        assert whole.startswith(cut)
        assert len(cut) <= LONGEST
        assert cut.endswith((".", "!", '?"'))
        assert not cut.endswith("3.")  # the point of a number ends no sentence
    assert len({len(cut) for cut in cut_stories(variants, letters)}) > 3


def test_a_story_whose_first_sentence_is_too_long_is_left_out(letters: PreTrainedTokenizerFast) -> None:
    endless = "and then " * 40 + "it ended."
    assert cut_stories([endless, ""], letters) == ["", ""]
    assert make_instructions("train", ["", "too few words"], {"words"}) == []


def test_an_instruction_asks_for_words_of_its_own_story_and_for_the_same_ones_again() -> None:
    stories = ["A kitten found yarn near some water.", "The kitten lost yarn in some water."]
    askable = askable_words([*stories, *(f"Plain text {number}" for number in range(30))])
    assert askable == {"kitten", "yarn", "some", "water"}
    first, second = make_instructions("train", stories, askable)
    asked = first.prompt.removeprefix("Write a story with the words ").removesuffix(".").replace(" and ", ", ")
    assert len(set(asked.split(", "))) == 3
    assert set(asked.split(", ")) <= askable
    assert (first.id, second.response) == ("train-0", stories[1])
    assert make_instructions("train", stories, askable) == [first, second]


def test_words_that_too_many_stories_have_are_not_asked_for() -> None:
    stories = [f"everyone knows number{number}" for number in range(20)]
    assert askable_words(stories) == set()


def test_stories_of_real_text_keep_to_160_tokens(shared: Path, stories_model: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(stories_model)
    stories = load_stories(str(shared / "data" / "tinystories")).train[:200]
    cuts = cut_stories(stories, tokenizer)
    counts = [len(tokenizer(cut, add_special_tokens=False)["input_ids"]) for cut in cuts]
    assert max(counts) <= LONGEST
    assert all(cut.rstrip("\"'”")[-1] in ".!?" for cut in cuts if cut)
    assert cuts.count("") <= 4  # first sentences of more tokens than the shortest limit


# --- texts --------------------------------------------------------------------------------------------------------


def test_a_folder_is_split_as_it_stands_and_a_held_out_story_is_never_trained_on(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"text": "one."}, {"text": "two."}, {"text": "one."}])
    write_jsonl(tmp_path / "valid.jsonl", [{"text": "three."}, {"text": "two."}])
    stories = load_stories(str(tmp_path))
    assert (stories.train, stories.held_out) == (["one.", "two."], ["three."])


def test_of_a_single_file_about_a_tenth_is_held_out(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": f"story {number}."} for number in range(400)]
    stories = load_stories(str(write_jsonl(tmp_path / "all.jsonl", rows)))
    assert len(stories.train) + len(stories.held_out) == 400
    assert 20 <= len(stories.held_out) <= 60
    assert not set(stories.train) & set(stories.held_out)


def test_a_hub_id_is_streamed_and_only_as_far_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="hub ids need the extra `hub`")

    def load_dataset(name: str, *, split: str, streaming: bool) -> itertools.count[int] | object:
        assert (name, streaming) == ("someone/stories", True)
        return ({"text": f"{split} {number}."} for number in itertools.count())

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(texts, "HUB_LIMITS", {"train": 5, "validation": 2})
    stories = load_stories("someone/stories")
    assert stories.train == [f"train {number}." for number in range(5)]
    assert stories.held_out == ["validation 0.", "validation 1."]


def test_data_that_is_neither_path_nor_hub_id_is_a_clear_error() -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        load_stories("./nowhere")


# --- gold ---------------------------------------------------------------------------------------------------------


def test_gold_prefers_an_end_to_a_limit_and_a_sentence_end_to_none() -> None:
    story = "Tom had a ball. He went to the park"
    whole, broken = gold_of(story + ".", ended=True), gold_of(story, ended=True)
    assert (whole.ending, broken.ending, gold_of(story + ".", ended=False).ending) == (1.0, 0.0, 0.0)
    assert gold_of('She said, "Come here."', ended=True).ending == 1.0


def test_gold_prefers_friendly_stories_and_one_happy_sentence_is_not_enough() -> None:
    happy, sad, plain = "They were so happy and loved it.", "They were sad and hated it.", "He sat on a chair."
    assert sentiment(happy) > sentiment(plain) == 0.0 > sentiment(sad)
    # of four sentences at least: one happy one counts a quarter, four of them count whole
    assert sentiment(" ".join([happy] * 4)) == pytest.approx(4 * sentiment(happy))
    assert sentiment(" ".join([happy] * 9)) == pytest.approx(4 * sentiment(happy))
    assert sentiment("") == 0.0


def test_repetition_is_the_share_of_trigrams_said_before() -> None:
    # "a b c a b c a b": six trigrams, three different ones
    assert gold_of("a b c a b c a b", ended=True).repetition == pytest.approx(0.5)
    assert gold_of("all the words are different here", ended=True).repetition == 0.0
    # bigrams over two texts, none across the border: ab bc | ab
    assert distinct_share(["a b c", "a b"], 2) == pytest.approx(2 / 3)


# --- the simulated annotator --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four answers each to 400 prompts, of four different gold scores."""
    answers = [
        "He was so happy and loved it. They had great fun.",
        "He sat on a chair. It was brown.",
        "He was sad and hated it. It was awful.",
        "He liked the nice day. They ate.",
    ]
    asked = [{"role": "user", "content": "Write."}]
    return write_jsonl(
        tmp_path_factory.mktemp("pool") / "pool.jsonl",
        [{"id": f"p{number}", "messages": asked, "responses": answers, "stopped": [True] * 4} for number in range(400)],
    )


def test_the_annotator_errs_as_often_as_its_ceiling_says(pool: Path, tmp_path: Path) -> None:
    found = rank_pool(pool, tmp_path / "ranked.jsonl", scale=0.3)
    assert 0.55 < found.expected < 0.95
    # 2,400 pairs: a standard error of about one in a hundred
    assert found.gold == pytest.approx(found.expected, abs=0.03)
    exact = rank_pool(pool, tmp_path / "exact.jsonl", scale=1e-6)
    assert exact.gold == pytest.approx(1.0)


def test_ranks_are_labelled_as_simulated_and_gold_is_not_in_the_file(pool: Path, tmp_path: Path) -> None:
    rank_pool(pool, tmp_path / "ranked.jsonl", scale=SCALE)
    rows = [json.loads(line) for line in (tmp_path / "ranked.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {tuple(row) for row in rows} == {("id", "messages", "responses", "stopped", "ranks", "annotator")}
    assert {row["annotator"] for row in rows} == {"simulated"}
    assert sum(len(pairs_from_ranks(row["ranks"]).strict) for row in rows) > 2000


# --- the whole ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_whole_pipeline_runs_and_runs_again_without_training(
    shared: Path, stories_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {
        "sft-steps": 6, "ranked-prompts": 24, "reward-epochs": 1.0, "dpo-epochs": 0.5, "ppo-rounds": 1,
        "free-rounds": 1, "held-out-prompts": 12,
    }  # fmt: skip
    words = [word for name, value in few.items() for word in (f"--{name}", str(value))]
    where = ["--model", str(stories_model), "--data", str(shared / "data" / "tinystories"), "--out", str(tmp_path)]
    assert main([*where, *words, "--quiet"]) == 0
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    names = [row["name"] for row in results["measures"]]
    assert names == ["references", "base", "SFT", "PPO", "DPO", "PPO, beta 0"]
    assert all(row["against"] is not None for row in results["measures"][3:])
    assert results["measures"][0]["ended"]["value"] == 1.0
    assert "simulated" in (tmp_path / "results.md").read_text(encoding="utf-8")
    trained = (tmp_path / "sft" / "run" / "run.json").read_bytes()
    assert main([*where, *words, "--quiet"]) == 0
    assert (tmp_path / "sft" / "run" / "run.json").read_bytes() == trained
    assert main([*where, *words[:2], "--quiet"]) == 2
    assert "fix:" in capsys.readouterr().err
