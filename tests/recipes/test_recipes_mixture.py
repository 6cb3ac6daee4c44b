"""What a run trains on and holds out: by prompt, never both, every count said, and nothing lost on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file
from stages import LORA, QUICK, Stages, write_rows

import posttrain
from posttrain.config import DataItem, RewardConfig, SFTConfig
from posttrain.console import Console
from posttrain.console.views import Silent
from posttrain.data.tokenise import conversations, rankings
from posttrain.errors import DataError, DoesNotFit, PosttrainError
from posttrain.recipes import disk
from posttrain.recipes.mixture import Mixture, mixture
from posttrain.recipes.opening import Door
from posttrain.recipes.rows import open_sources
from posttrain.text.chat import Codec
from posttrain.types import PrefixGroup

Row = Mapping[str, object]
NOTHING_LOST = {"turns as samples of their own": 0, "answers whose tokens decode to another text": 0}


def chats(prompts: Sequence[object], answer: str = "yes") -> list[Row]:
    return [{"prompt": f"{prompt}?", "completion": answer} for prompt in prompts]


class Desk:
    """A folder of data files, a codec, and every line that was said."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.codec = Codec.load(model)
        self.said: list[str] = []
        self.console = Console(Silent())
        self.console.attach(self.said.append)

    def file(self, name: str, rows: Sequence[Row]) -> str:
        return str(write_rows(self.folder / name, rows))

    def door(self, data: Sequence[DataItem], eval_data: str | None, kinds: tuple[str, ...], limit: int) -> Door:
        file = None if eval_data is None or eval_data.endswith("%") else eval_data
        return Door(
            data=open_sources(data, kinds),
            held=open_sources(file, kinds),
            aside=[],
            codec=self.codec,
            limit=limit,
            embedding=300,
            console=self.console,
        )

    def sft(self, *data: str, eval_data: str | None = None, limit: int = 60, seed: int = 0) -> Mixture[PrefixGroup]:
        config = SFTConfig(model="m", out="o", data=data, eval_data=eval_data, seed=seed)
        self.opened = self.door(config.data, eval_data, ("chat", "text"), limit)
        return mixture(config, self.opened, conversations(self.codec, limit, "drop", "assistant"))


@pytest.fixture
def desk(tmp_path: Path, tiny_model: Path) -> Desk:
    return Desk(tmp_path, tiny_model)


def ids(items: Sequence[PrefixGroup]) -> list[str]:
    return [group.id for group in items]


def test_a_share_is_held_out_by_prompt_and_every_row_stands_on_one_side(desk: Desk) -> None:
    rows = [row for answer in ("yes", "no", "maybe") for row in chats(range(100), answer)]
    found = desk.sft(desk.file("train.jsonl", rows), eval_data="20%")
    [training] = found.sets
    trained, held = (
        {desk.codec.decode(group.root.tokens).split("?")[0] for group in part} for part in (training.items, found.held)
    )
    assert not trained & held
    assert sorted([*ids(training.items), *ids(found.held)]) == sorted(f"train.jsonl:{n}" for n in range(1, 301))
    assert 3 * len(held) == len(found.held) > 20
    assert f"train.jsonl: {len(training.items)} kept; {len(found.held)} held out" in desk.said
    assert desk.opened.counts["train.jsonl"]["held out"] == len(found.held)


def test_more_data_and_other_files_leave_the_split_as_it_was(desk: Desk) -> None:
    few = desk.sft(desk.file("few.jsonl", chats(range(200))), eval_data="20%")
    many = desk.sft(desk.file("many.jsonl", chats(range(-50, 400))), eval_data="20%")
    held = {group.root.tokens for group in many.held}
    assert {group.root.tokens for group in few.held} < held
    assert not {group.root.tokens for group in few.sets[0].items} & held


def test_a_prompt_of_the_evaluation_data_is_not_trained_on_and_said(desk: Desk) -> None:
    train = desk.file("train.jsonl", [*chats(range(10)), *chats([3], "no")])
    held = desk.file("eval.jsonl", chats([3, 7, 50], "never"))
    found = desk.sft(train, eval_data=held)
    assert ids(found.sets[0].items) == [f"train.jsonl:{number + 1}" for number in (0, 1, 2, 4, 5, 6, 8, 9)]
    assert ids(found.held) == ["eval.jsonl:1", "eval.jsonl:2", "eval.jsonl:3"]
    assert "train.jsonl: 8 kept; 3 ask a prompt of eval_data" in desk.said
    assert (
        "train.jsonl: 3 rows ask 2 prompts that eval.jsonl asks too (train.jsonl:4, train.jsonl:8, …); "
        "left out of training"
    ) in desk.said


def test_data_that_are_all_evaluated_are_refused(desk: Desk) -> None:
    train = desk.file("train.jsonl", chats(range(10)))
    with pytest.raises(DataError, match="0 kept; 10 ask a prompt of eval_data\n  fix: give eval_data other rows"):
        desk.sft(train, eval_data=train)


def test_rows_of_two_files_are_counted_and_stay(desk: Desk) -> None:
    first, second = desk.file("a.jsonl", chats(range(10))), desk.file("b.jsonl", chats(range(8, 20)))
    found = desk.sft(first, second)
    assert [len(part.items) for part in found.sets] == [10, 12]
    assert "b.jsonl: 2 rows stand in a.jsonl too (b.jsonl:1, b.jsonl:2); both stay" in desk.said


def test_rows_that_are_all_too_long_are_refused_with_the_numbers(desk: Desk) -> None:
    rows = chats(["a", "bb"], "x" * 100)
    lengths = [len(group) for group in desk.sft(desk.file("train.jsonl", rows), limit=256).sets[0].items]
    with pytest.raises(DataError) as raised:
        desk.sft(desk.file("train.jsonl", rows), limit=60)
    assert str(raised.value) == (
        "no row is left to train on\n  train.jsonl: 0 kept; 2 overlong\n"
        f"  the shortest row that is too long has {min(lengths)} tokens, and max_length is 60\n"
        "  fix: raise max_length, or set overlong to truncate"
    )


def test_from_the_cache_the_same_is_said_and_noted(desk: Desk) -> None:
    rows = [*chats(range(60)), *chats([0]), *chats(["long"], "x" * 90), {"prompt": "a?", "completion": ""}]
    train = desk.file("train.jsonl", rows)
    desk.sft(train, eval_data="10%")
    first, problems, counts = list(desk.said), desk.opened.problems, desk.opened.counts
    assert first[0].startswith("train.jsonl: 63 rows, ")
    assert first[0].endswith("; 1 bad (left out), 1 duplicate (left out)")
    desk.said.clear()
    desk.sft(train, eval_data="10%")
    assert desk.said == [f"{first[0]}; tokens from cache", *first[1:]]
    assert (desk.opened.problems, desk.opened.counts) == (problems, counts)
    assert [problem.place.endswith("train.jsonl:63") for problem in problems] == [True]


def test_a_mapping_of_columns_is_part_of_what_tokens_depend_on(desk: Desk) -> None:
    file = desk.file("train.jsonl", [{"q": f"{n}?", "a": "yes", "b": "no"} for n in range(4)])
    found: list[list[str]] = []
    for answer in ("a", "b"):
        items = (DataItem(path=file, columns={"prompt": "q", "completion": answer}),)
        door = desk.door(items, None, ("chat",), 60)
        config = SFTConfig(model="m", out="o", data=items, eval_data=None)
        made = mixture(config, door, conversations(desk.codec, 60, "drop", "assistant"))
        found.append([desk.codec.decode(group.root.tokens) for group in made.sets[0].items])
    assert all("yes" in text for text in found[0])
    assert all("no" in text for text in found[1])


def test_rankings_are_split_by_their_prompt(desk: Desk) -> None:
    rows = [{"prompt": f"{n % 50}?", "responses": [f"a{n}", "b"], "ranks": [1, 2]} for n in range(150)]
    config = RewardConfig(model="m", out="o", data=desk.file("ranked.jsonl", rows), eval_data="20%")
    found = mixture(config, desk.door(config.data, "20%", ("ranked",), 60), rankings(desk.codec, 60, "drop"))
    trained = {item.group.root.tokens for item in found.sets[0].items}
    held = {item.group.root.tokens for item in found.held}
    assert len(trained) + len(held) == 50
    assert 3 * len(held) == len(found.held) > 6
    assert not trained & held


# --- the door -------------------------------------------------------------------------------------------------------


@pytest.mark.medium
def test_a_model_and_files_that_are_missing_are_all_named(tmp_path: Path, stages: Stages) -> None:
    with pytest.raises(PosttrainError) as raised:
        posttrain.sft(
            model=tmp_path / "models" / "none", data=[stages.chats, tmp_path / "none.jsonl"],
            eval_data=tmp_path / "eval.jsonl", out=tmp_path / "out", quiet=True,
        )  # fmt: skip
    for name in ("models/none", "none.jsonl", "eval.jsonl"):
        assert f"{tmp_path}/{name}" in str(raised.value)
    assert str(raised.value).startswith("3 problems")
    assert not (tmp_path / "out").exists()


@pytest.mark.medium
@pytest.mark.parametrize("rows", [[{"prompt": "a?", "completion": "x" * 900}], [{"prompt": "a?", "completion": ""}]])
def test_fresh_clears_nothing_before_all_rows_are_read(rows: Sequence[Row], stages: Stages, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "train.jsonl", chats(range(8)))
    run = posttrain.sft(model=stages.base, data=data, eval_data=None, out=tmp_path / "run", steps=1, **QUICK)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    write_rows(data, rows)
    with pytest.raises(DataError):
        posttrain.sft(
            model=stages.base,
            data=data,
            eval_data=None,
            out=tmp_path / "run",
            steps=1,
            fresh=True,
            max_bad="100%",
            **QUICK,
        )
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


@pytest.mark.medium
def test_what_is_said_of_the_rows_stands_in_the_run_folder(stages: Stages, tmp_path: Path) -> None:
    rows = [*chats(range(40)), {"prompt": "a?", "completion": ""}]
    data = write_rows(tmp_path / "train.jsonl", rows)
    runs = [
        posttrain.sft(model=stages.base, data=data, eval_data="10%", out=tmp_path / name, steps=1, **QUICK)
        for name in ("first", "second")
    ]
    for run in runs:
        [problem] = [json.loads(line) for line in (run.path / "run" / "problems.jsonl").read_text().splitlines()]
        assert problem["place"].endswith("train.jsonl:41")
        counts = run.record["train.jsonl_rows"]
        assert counts["kept"] + counts["held out"] == 40
        assert f"train.jsonl: {counts['kept']} kept" in (run.path / "run" / "log.txt").read_text()
    assert runs[0].metrics[0]["loss"] == runs[1].metrics[0]["loss"]


@pytest.mark.medium
def test_files_of_one_name_are_told_apart(stages: Stages, tmp_path: Path) -> None:
    files: list[Path] = []
    for folder, prompts in (("train", range(20)), ("test", range(18, 22))):
        (tmp_path / folder).mkdir()
        files.append(write_rows(tmp_path / folder / "rows.jsonl", chats(prompts)))
    data, held = map(str, files)
    run = posttrain.sft(model=stages.base, data=data, eval_data=held, out=tmp_path / "run", steps=1, **QUICK)
    assert run.record[f"{data}_rows"] == {"kept": 18, "ask a prompt of eval_data": 2} | NOTHING_LOST
    assert run.record[f"{held}_rows"] == {"kept": 4} | NOTHING_LOST


@pytest.mark.medium
def test_a_disk_without_room_for_model_and_checkpoints_is_said_before_anything_is_written(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = sum(tensor.numel() for tensor in load_file(stages.base / "model.safetensors").values())
    needed = weights * (4 + 3 * 12)

    def train(free: int, **settings: object) -> None:
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
        posttrain.sft(model=stages.base, data=stages.chats, out=tmp_path / "deep" / "run", steps=1, **QUICK, **settings)

    with pytest.raises(DoesNotFit, match=f"the run writes {needed / 1e6:.1f} MB, and .* are free\n.*3 checkpoints"):
        train(needed - 1)
    with pytest.raises(DoesNotFit, match=r"3 checkpoints .*, run/best .* MB\n"):
        train(needed + weights * 4 * 4 - 1, best="eval_loss", eval_data=str(stages.chats))
    assert not (tmp_path / "deep").exists()
    train(needed)
    # Of adapters too, once they are attached and their size is known.
    with pytest.raises(DoesNotFit, match="3 checkpoints"):
        train(weights * 4, fresh=True, lora=LORA)
    train(2 * needed, fresh=True, lora=LORA)
