"""What people ranked trains as it is: `reward`, `dpo` and `eval` read the store, and audit items stay apart."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path

import pytest
import torch
from rankings_at_hand import People, item, store
from stages import QUICK, Stages

import posttrain
from posttrain.config import RankConfig, make_config
from posttrain.console import Console, Silent
from posttrain.data.readers import open_data, read
from posttrain.errors import DataError
from posttrain.feedback.exporting import export
from posttrain.feedback.server import Options
from posttrain.models.load import load_scalar
from posttrain.objectives import ScoreReader
from posttrain.recipes.scoring import answer_group, score_groups
from posttrain.records import PromptRecord, RankedRecord
from posttrain.run import Run
from posttrain.text.chat import Codec
from posttrain.workflows import ranking
from posttrain.workflows.unsure import mean_bits, unsure

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def feedback(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of sixteen prompts that ann ranked, four of them audit items."""
    items = [item(f"i{n:02}", str(2 * n), "no", f"{n} or so", prompt=f"{n} + {n} =", audit=n >= 12) for n in range(16)]
    path = store(tmp_path_factory.mktemp("feedback") / "feedback.db", *items)
    with closing(People(path)) as people:
        while (name := people.next("ann")) is not None:
            people.rank("ann", name, [1, 3, 2])
    return path


def test_a_reward_model_from_the_store_is_the_one_from_its_export(
    stages: Stages, feedback: Path, tmp_path: Path
) -> None:
    out = export(feedback, tmp_path / "rankings.jsonl", pairs=False, share=0.0).train.out
    heads = []
    for name, data in (("store", feedback), ("export", out)):
        run = posttrain.reward(model=stages.sft, data=data, out=tmp_path / name, steps=2, eval_data=None, **QUICK)
        assert run.results["training_accuracy"]["count"] == 12 * 3
        heads.append(load_scalar(str(tmp_path / name))[0].score.weight.detach())
    assert torch.equal(*heads)


def test_dpo_trains_on_the_store(stages: Stages, feedback: Path, tmp_path: Path) -> None:
    run = posttrain.dpo(model=stages.sft, data=feedback, out=tmp_path / "dpo", steps=2, eval_data=None, **QUICK)
    assert run.status == "done"
    assert Run(tmp_path / "dpo").metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_eval_measures_a_reward_model_on_the_store_and_on_what_was_set_apart(stages: Stages, feedback: Path) -> None:
    trained = posttrain.evaluate(stages.reward, data=feedback, quiet=True)
    audit = posttrain.evaluate(stages.reward, data=[{"path": feedback, "split": "audit"}], quiet=True)
    assert (trained["accuracy"]["count"], audit["accuracy"]["count"]) == (12 * 3, 4 * 3)


@pytest.mark.parametrize("train", [posttrain.reward, posttrain.dpo])
def test_nothing_trains_on_what_was_set_apart(train: object, stages: Stages, feedback: Path, tmp_path: Path) -> None:
    data = [{"path": str(feedback), "split": "audit"}]
    with pytest.raises(DataError, match="the audit items are never trained on"):
        train(model=stages.sft, data=data, out=tmp_path / "run", steps=2, **QUICK)
    assert not (tmp_path / "run").exists()


def test_an_even_score_is_one_bit_and_a_sure_one_none() -> None:
    assert mean_bits([0.0, 0.0]) == 1.0
    assert mean_bits([0.0, 1000.0]) == pytest.approx(0.0, abs=1e-12)
    p = 1 / (1 + math.exp(-2.0))
    assert mean_bits([3.0, 1.0]) == pytest.approx(-(p * math.log2(p) + (1 - p) * math.log2(1 - p)))
    assert mean_bits([0.0, 0.0, 1000.0]) == pytest.approx(1 / 3)


def test_how_unsure_a_reward_model_is_comes_from_its_scores_of_each_answer(stages: Stages, tmp_path: Path) -> None:
    records = [record for record in read(stages.rankings, "pool").records if isinstance(record, RankedRecord)]
    found = unsure(str(stages.reward), records, Console(Silent()))
    assert len(found) == 16
    assert all(0 < bits <= 1 for bits in found.values())
    codec, (scalar, _) = Codec.load(str(stages.reward)), load_scalar(str(stages.reward))
    asked = PromptRecord(id="", messages=records[3].prompt)
    scores = [
        float(
            score_groups(
                ScoreReader(model=scalar),
                [answer_group("", codec.prompt(asked).tokens, [codec.answer(asked, text)])],
                1000,
            )
        )
        for text in records[3].responses
    ]
    assert found[records[3].id] == pytest.approx(mean_bits(scores), abs=1e-5)


def test_what_is_longer_than_the_reward_models_context_is_left_to_chance(stages: Stages) -> None:
    long = RankedRecord(
        id="long",
        prompt=next(iter(open_data(stages.rankings, "pool"))).prompt,
        responses=("a" * 100_000, "b"),
        ranks=(None, None),
    )
    assert unsure(str(stages.reward), [long], Console(Silent())) == {}


def test_what_the_reward_model_is_least_sure_of_comes_early_and_what_is_ranked_or_set_apart_is_left_out(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [item(f"i{n:02}", str(2 * n), "no", prompt=f"{n} + {n} =", audit=n >= 36) for n in range(40)]
    path = store(tmp_path / "feedback.db", *items)
    with closing(People(path)) as people:
        ranked = str(people.next("ann"))
        people.rank("ann", ranked, [1, 2])
    served: list[Options] = []

    class Ended:
        address = "http://here"

        def __enter__(self) -> Ended:
            return self

        def __exit__(self, *given: object) -> None: ...

        def wait(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(ranking, "application", lambda store, options: served.append(options))
    monkeypatch.setattr(ranking, "Serving", lambda app, host, port: Ended())
    told = {"db": str(path), "choose": "uncertain", "reward": str(stages.reward), "uncertain": 1.0}
    found = ranking.rank(make_config(RankConfig, told), console=Console(Silent()))
    assert (found.done, found.of, found.annotators) == (1, 40, {"ann": 1})
    [options] = served
    unsure_of = options.rules.unsure
    assert set(unsure_of) == {each.id for each in items if not each.audit} - {ranked}
    with closing(People(path, options.rules)) as people:
        shown: list[str] = []
        while (name := people.next("ben")) is not None and len(shown) < 5:
            shown.append(name)
            people.say("ben", name, "skip")
    assert shown == sorted(unsure_of, key=lambda name: -unsure_of[name])[:5]
