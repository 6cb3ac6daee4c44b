"""A conversation in a pipe: each line is answered with all that was said before it, and votes go to the store."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from stages import Stages, write_rows

import posttrain
from posttrain.config import ChatConfig, make_config
from posttrain.console import Console, Silent
from posttrain.console.talk import Talk
from posttrain.data import feedback_db
from posttrain.data.readers import read
from posttrain.errors import DataError
from posttrain.recipes.chat import Chatted, chat
from posttrain.recipes.votes import shown_order
from posttrain.types import ChatRecord, RankedRecord

pytestmark = pytest.mark.medium

GREEDY = {"temperature": 0.0, "max_new_tokens": 8, "seed": 0}
Turn = tuple[str, str]


class Pieces(io.StringIO):
    """What is written, in the pieces in which it comes."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str, /) -> int:
        self.pieces.append(text)
        return super().write(text)


def talked(model: Path, lines: Sequence[str], **settings: Any) -> tuple[Chatted, Pieces]:
    """What came of these lines, and what was shown."""
    out = Pieces()
    config = make_config(ChatConfig, {"model": model, **GREEDY, **settings})
    done = chat(config, console=Console(Silent()), talk=Talk([f"{line}\n" for line in lines], out, at_terminal=False))
    return done, out


def saved(file: Path) -> list[Turn]:
    """The messages of the last conversation in a file, by role."""
    row = json.loads(file.read_text(encoding="utf-8").splitlines()[-1])
    return [(message["role"], message["content"]) for message in row["messages"]]


def sampled(model: Path, turns: Sequence[Turn], folder: Path) -> str:
    """The likeliest answer to a conversation, by `sample`."""
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    prompts = write_rows(folder / "asked.jsonl", [row])
    pool = posttrain.sample(model, prompts=prompts, out=folder / "pool.jsonl", fresh=True, quiet=True, **GREEDY)
    return json.loads(pool.read_text(encoding="utf-8"))["responses"][0]


def test_each_message_is_answered_with_all_that_was_said_before(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    done, _ = talked(tiny_model, ["Hello.", "", "And then?", f"/save {file}"], system="Be brief.")
    assert done == Chatted(answered=2, votes={})
    first = [("system", "Be brief."), ("user", "Hello.")]
    second = [*first, ("assistant", sampled(tiny_model, first, tmp_path)), ("user", "And then?")]
    assert saved(file) == [*second, ("assistant", sampled(tiny_model, second, tmp_path))]


def test_what_is_saved_is_a_row_to_finetune_on_and_is_added_to_others(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    talked(tiny_model, ["Hello.", f"/save {file}", "/new", "Bye.", f"/save {file}"])
    records = read(file, "chat").records
    assert [record.messages[0].content for record in records if isinstance(record, ChatRecord)] == ["Hello.", "Bye."]


def test_what_is_taken_back_was_never_said(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    talked(tiny_model, ["Hello.", "Nonsense!", "/undo", "And then?", f"/save {file}"])
    talked(tiny_model, ["Hello.", "And then?", f"/save {file}"])
    undone, plain = file.read_text(encoding="utf-8").splitlines()
    assert undone == plain


def test_a_system_message_begins_anew_and_none_takes_it_out(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    talked(tiny_model, ["Hello.", "/system Be kind.", "Hi.", f"/save {file}"])
    assert [role for role, _ in saved(file)] == ["system", "user", "assistant"]
    talked(tiny_model, ["/system", "Hi.", f"/save {file}"], system="Be kind.")
    assert [role for role, _ in saved(file)] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/sve x", "there is no /sve; there are /new, /system, /undo, /save, /help, /quit"),
        ("/undo", "there is nothing to take back"),
        ("/save", "/save needs the name of a file, such as chats.jsonl"),
        ("/save x.jsonl", "nothing is said yet"),
        ("/help", "/undo  take back the last message"),
    ],
)
def test_commands_that_can_do_nothing_say_so(line: str, says: str, tiny_model: Path) -> None:
    assert says in talked(tiny_model, [line])[1].getvalue()


def test_answers_come_in_pieces_and_nothing_follows_the_end(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    done, out = talked(tiny_model, ["Hello.", f"/save {file}", "/quit", "Never read."], temperature=1.0, seed=1)
    assert done.answered == 1
    [_, (_, answer)] = saved(file)
    before_the_end = out.pieces[: out.pieces.index("\n")]
    assert len(before_the_end) > 1
    assert len("".join(before_the_end)) >= len(answer.strip())


def test_a_conversation_without_room_ends_a_pipe_with_the_reason(tiny_model: Path) -> None:
    with pytest.raises(DataError, match="the conversation"):
        talked(tiny_model, ["?" * 300])


def test_the_same_seed_gives_the_same_answers_and_no_answer_twice(tiny_model: Path, tmp_path: Path) -> None:
    def answers(seed: int) -> list[str]:
        file = tmp_path / "chats.jsonl"
        talked(tiny_model, ["Hi.", "/save " + str(file), "/new", "Hi.", f"/save {file}"], temperature=1.0, seed=seed)
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[-2:]]
        return [row["messages"][-1]["content"] for row in rows]

    assert answers(1) == answers(1)
    assert len({*answers(1), *answers(2)}) == 4


# --- two models -----------------------------------------------------------------------------------------------------


def test_votes_are_rankings_that_name_the_models(stages: Stages, tiny_model: Path, tmp_path: Path) -> None:
    db = tmp_path / "votes" / "feedback.db"
    (db.parent).mkdir()
    lines = ["One.", "1", "Two.", "2", "Three.", "=", "Four.", "so so", "s"]
    done, out = talked(stages.sft, lines, against=tiny_model, db=db, annotator="ada", max_new_tokens=12)
    assert done.answered == 4
    assert "'so so' is no vote; write 1, 2, = or s" in out.getvalue()
    records = [record for record in read(db, "ranked").records if isinstance(record, RankedRecord)]
    assert {record.annotator for record in records} == {"ada"}
    assert done.votes["ties"] == 1
    assert done.votes["skipped"] == 1
    first = [shown_order(0, number) for number in range(2)]
    names = (str(stages.sft), str(tiny_model))
    voted = [names[first[0][0]], names[first[1][1]]]
    stored = sorted(names)
    assert [record.ranks for record in records] == [
        *((1, 2) if name == stored[0] else (2, 1) for name in voted), (1, 1)
    ]  # fmt: skip
    orders = [[stored.index(names[place]) for place in shown_order(0, number)] for number in range(4)]
    assert [told["order"] for _, told in events(db)] == orders
    assert {name: done.votes.get(name, 0) for name in names} == {name: voted.count(name) for name in names}


def test_the_conversation_goes_on_with_the_better_answer(stages: Stages, tiny_model: Path, tmp_path: Path) -> None:
    file, asked = tmp_path / "chats.jsonl", [("user", "One.")]
    names = (stages.sft, tiny_model)
    order = shown_order(0, 0)
    for vote, place in (("1", order[0]), ("2", order[1]), ("=", order[0])):
        lines = ["One.", vote, f"/save {file}"]
        talked(stages.sft, lines, against=tiny_model, db=tmp_path / f"{place}{ord(vote)}.db")
        assert saved(file)[-1] == ("assistant", sampled(names[place], asked, tmp_path))


def test_a_vote_that_is_taken_back_does_not_count(stages: Stages, tiny_model: Path, tmp_path: Path) -> None:
    db = tmp_path / "feedback.db"
    done, _ = talked(stages.sft, ["One.", "1", "/undo", "Two.", "2"], against=tiny_model, db=db)
    assert sum(done.votes.values()) == 1
    [record] = read(db, "ranked").records
    assert isinstance(record, RankedRecord)
    names = (str(stages.sft), str(tiny_model))
    better = names[shown_order(0, 1)[1]]
    assert (record.prompt[0].content, record.ranks) == ("Two.", (1, 2) if better == min(names) else (2, 1))


def events(db: Path) -> list[tuple[str, dict[str, Any]]]:
    """The item and what is kept of each event."""
    with closing(feedback_db.reader(db)) as connection:
        rows = connection.execute("SELECT item, payload FROM events ORDER BY id").fetchall()
    return [(item, json.loads(payload)) for item, payload in rows]


def test_each_conversation_has_an_order_of_its_own_and_a_second_vote_on_the_same_answers_is_a_repeat(
    stages: Stages, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, said = tmp_path / "feedback.db", list[str]()
    other = next(seed for seed in range(8, 99) if shown_order(seed, 0) != shown_order(7, 0))
    seeds = iter((7, other))
    monkeypatch.setattr("posttrain.recipes.chat.randbelow", lambda below: next(seeds))  # pyright: ignore
    for _ in range(2):
        given = {"model": stages.sft, "against": tiny_model, "db": db, "temperature": 0.0, "max_new_tokens": 8}
        console = Console(Silent())
        console.attach(said.append)
        talk = Talk(["One.\n", "1\n"], io.StringIO(), at_terminal=False)
        chat(make_config(ChatConfig, given), console=console, talk=talk)
    (first, told), (second, again) = events(db)
    assert first == second
    assert (told["seed"], again["seed"]) == (7, other)
    assert told["order"] == again["order"][::-1]  # whoever always votes for A is heard to
    assert told["ranks"] == again["ranks"][::-1]
    assert ("repeat" in told, again["repeat"]) == (False, True)
    [record] = read(db, "ranked").records
    assert isinstance(record, RankedRecord)
    assert record.ranks == tuple(again["ranks"])
    assert f"seed {other}, which is kept with the votes; --seed {other} gives the same order again" in said


def test_two_answers_that_are_the_same_are_not_voted_on(tiny_model: Path, tmp_path: Path) -> None:
    db = tmp_path / "feedback.db"
    done, out = talked(tiny_model, ["One.", "Two."], against=tiny_model, db=db)
    assert done == Chatted(answered=2, votes={})
    assert out.getvalue().count("both say the same") == 2
    assert not db.exists()


def test_a_file_that_is_no_store_is_refused_before_anything_is_said(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "notes.db"
    file.write_text("mine")
    with pytest.raises(DataError, match="this is no SQLite database"):
        talked(tiny_model, ["One.", "1"], against=tiny_model, db=file)
    assert file.read_text() == "mine"


def test_either_model_is_shown_first_half_of_the_time() -> None:
    first = [shown_order(seed, number)[0] for seed in range(20) for number in range(50)]
    assert 430 < sum(first) < 570  # 500, and more than four deviations of 16
    assert [shown_order(7, number) for number in range(9)] == [shown_order(7, number) for number in range(9)]


def test_a_pipe_gets_the_answers_alone(tiny_model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "posttrain", "chat", str(tiny_model), "--max_new_tokens", "8"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--temperature", "0"], input="Hello.\nAnd then?\n", capture_output=True, text=True, check=True,
        cwd=tmp_path, env=environment, encoding="utf-8",
    )  # fmt: skip
    file = tmp_path / "chats.jsonl"
    _, out = talked(tiny_model, ["Hello.", "And then?", f"/save {file}"])
    assert done.stdout == out.getvalue().rpartition("2 messages with answers added")[0]
    assert "parity: log-probs equal" in done.stderr
    assert list(tmp_path.iterdir()) == [file]
