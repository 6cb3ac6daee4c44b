"""When a round is ranked enough: what can never be waited for is refused, and what is waited for can come."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from posttrain.config import RankConfig, RLHFConfig, load_config, make_config
from posttrain.console import Console
from posttrain.data import feedback_db
from posttrain.data.feedback_db import Event
from posttrain.errors import ConfigError, Interrupted
from posttrain.feedback.actions import next_item
from posttrain.feedback.assigning import Rules
from posttrain.feedback.ledger import Ledger
from posttrain.workflows.loop_folder import Round
from posttrain.workflows.loop_ranking import Ranking

pytestmark = pytest.mark.medium


_AUDITS = "SELECT prompt FROM items WHERE audit"


class Heard(Console):
    """A console whose lines are kept."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def working(self, line: str) -> None: ...

    def finish(self, summary: str = "") -> None:
        self.lines.append(summary)


class Asking:
    """A round of eight prompts, of which people rank while it is waited."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
        self.folder, self.console = folder, Heard()
        given = {"model": "sft", "prompts": "prompts.jsonl", "out": folder, "rank": {"audit": 0.0, "overlap": 0.25}}
        self.ranking = Ranking.of_loop(make_config(RLHFConfig, given | settings), [], self.console)
        self.db = folder / "feedback.db"
        self.steps: list[Callable[[], None]] = []
        monkeypatch.setattr("posttrain.workflows.loop_ranking.time.sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        """People do the next thing."""
        self.steps.pop(0)()

    def round(self, number: int) -> Round:
        """A round with the answers of its policy."""
        current = Round(number=number, folder=self.folder / f"round-{number}")
        if not current.pool.exists():
            current.folder.mkdir(parents=True)
            rows = [{"prompt": f"Say {n}.", "responses": [f"{n}, {number}", "no"]} for n in range(8)]
            current.pool.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return current

    def rank(self, ranks: list[int], count: int | None = None) -> None:
        """One person ranks so many items that nobody ranked, or all."""
        with closing(feedback_db.connect(self.db)) as connection:
            query = "SELECT id FROM items WHERE id NOT IN (SELECT item FROM events) ORDER BY id"
            for (item,) in connection.execute(query).fetchall()[:count]:
                feedback_db.append(
                    connection, Event(item=item, annotator="ada", kind="rank", payload={"ranks": [*ranks]})
                )

    def change_one(self) -> None:
        """The person takes a tie to train on back, and says which answer is better."""
        with closing(feedback_db.connect(self.db)) as connection:
            for (item,) in connection.execute("SELECT id FROM items").fetchall():
                feedback_db.append(
                    connection, Event(item=item, annotator="ada", kind="rank", payload={"ranks": [1, 2]})
                )


@pytest.mark.parametrize("annotator", [None, {"score": "rewards.py:gold", "names": ["ada", "bo"]}])
def test_more_rankings_than_people_are_asked_for_are_refused_with_both_numbers(
    annotator: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = Asking(tmp_path, monkeypatch, wait={"rankings": 17}, annotator=annotator)
    with pytest.raises(
        ConfigError,
        match=r"17 rankings are waited for, and the round gives at most (9|1\d): 8 prompts, \d of them for two people\n"
        r"  fix: --wait.rankings \d+ or less, or --fresh with a larger ask or rank.overlap",
    ):
        asking.ranking.of(asking.round(1), None)


def test_one_person_who_cannot_give_them_all_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = {"audit": 0.0, "overlap": 1.0}
    asking = Asking(tmp_path, monkeypatch, wait={"rankings": 9}, rank=everything)
    asking.steps = [lambda: asking.rank([1, 2]), _stop]
    with pytest.raises(Interrupted, match="8 rankings"):
        asking.ranking.of(asking.round(1), None)
    [line] = [line for line in asking.console.lines if line.startswith("waiting for rankings")]
    assert line.startswith("waiting for rankings, 9 of them (one person gives at most 8): 0 of 8 prompts")


def test_where_all_is_ranked_and_tied_it_is_waited_on_and_said_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = Asking(tmp_path, monkeypatch)
    asking.steps = [lambda: asking.rank([1, 1]), _stop]
    with pytest.raises(Interrupted, match="8 of 8 prompts"):
        asking.ranking.of(asking.round(1), None)
    assert not asking.round(1).ranked.exists()
    asking.console.lines.clear()
    asking.steps = [lambda: None, asking.change_one]
    asking.ranking.of(asking.round(1), None)  # the same command again
    told = "no two answers to train on are ranked differently yet: undo a tie on the page and rank it anew, or add"
    assert sum(line.startswith(told) for line in asking.console.lines) == 1
    assert asking.round(1).rankings.is_file()


def test_the_command_for_people_asks_the_reward_model_that_the_loop_would_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank = {"audit": 0.0, "uncertain": 0.75, "port": 9000}
    asking = Asking(tmp_path / "a loop", monkeypatch, choose="uncertain", rank=rank)
    for number, reward in ((1, None), (2, Path("runs/rm"))):
        asking.steps = [lambda: asking.rank([1, 2])]
        asking.ranking.of(asking.round(number), reward)
    commands = [line.removeprefix("rank with: ") for line in asking.console.lines if line.startswith("rank with")]
    assert commands == [
        f"posttrain rank --db '{asking.db}' --port 9000",
        f"posttrain rank --db '{asking.db}' --choose uncertain --reward runs/rm --port 9000 --uncertain 0.75",
    ]
    words = shlex.split(commands[1])[2:]
    flags = {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}
    assert load_config(RankConfig, None, flags).db == str(asking.db)


def test_the_items_of_a_round_come_before_those_that_are_left_of_earlier_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = Asking(tmp_path, monkeypatch, wait={"rankings": 3}, rank={"audit": 0.0, "overlap": 0.0})
    asking.steps = [lambda: asking.rank([1, 2], 3)]
    asking.ranking.of(asking.round(1), None)
    with closing(feedback_db.connect(asking.db)) as connection:
        open_page = Ledger(connection, Rules())  # of a process that goes on through both rounds
        with open_page.transaction():
            assert handed_out(open_page, "bo") == 1
        found: list[int] = []

        def look() -> None:
            for ledger in (open_page, Ledger(connection, Rules(seed=1))):
                with ledger.transaction():
                    found.extend(handed_out(ledger, f"{who} {len(found)}") for who in range(4))

        asking.steps = [look, lambda: asking.rank([1, 2])]
        asking.ranking.of(asking.round(2), None)
    assert found == [2] * 8
    assert "5 items that nobody ranked before this round come after its own" in asking.console.lines


def test_how_many_audit_prompts_ppo_leaves_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asking = Asking(tmp_path, monkeypatch, rank={"audit": 0.4})
    asking.steps = [lambda: asking.rank([1, 2])]
    current = asking.round(1)
    asking.ranking.of(current, None)
    with closing(feedback_db.connect(asking.db)) as connection:
        audits = {json.loads(prompt)[0]["content"] for (prompt,) in connection.execute(_AUDITS)}
    prompts = tmp_path / "train.jsonl"
    rows = [{"prompt": [{"role": "user", "content": f"Say {n}."}]} for n in range(8)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    file = asking.ranking.prompts_to_train_on(current, prompts)
    left = [json.loads(line)["prompt"][0]["content"] for line in file.read_text(encoding="utf-8").splitlines()]
    assert {*left, *audits} == {f"Say {n}." for n in range(8)}
    assert 1 < len(audits) == 8 - len(left)
    assert (
        asking.console.lines[-1] == f"{file}: {len(left)} of 8 prompts, {len(audits)} prompts of audit items left out"
    )


def handed_out(ledger: Ledger, who: str) -> int:
    """The round of the item that a person is handed next."""
    shown = next_item(ledger, who)["item"]
    return 2 if ", 2" in json.dumps(shown) else 1


def _stop() -> None:
    raise KeyboardInterrupt
