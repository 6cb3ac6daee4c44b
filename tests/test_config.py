"""Settings: what is read from YAML, flags and keywords, and what is said of mistakes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from posttrain.config import (
    CONFIGS,
    DPOConfig,
    EvalConfig,
    Lora,
    OnlineDPOConfig,
    PPOConfig,
    RewardConfig,
    SampleConfig,
    SFTConfig,
    auto_critic_rate,
    auto_learning_rate,
    auto_max_length,
    auto_precision,
    dump,
    held_out_share,
    leaves,
    load_config,
    make_config,
    planned,
    steps_between,
)
from posttrain.config.foreign_absent import FAMILIES, LATER, MISSING, UNNEEDED
from posttrain.config.foreign_names import RENAMED
from posttrain.config.shared import Settings
from posttrain.errors import ConfigError

SFT = {"model": "runs/base", "data": "train.jsonl", "out": "runs/sft"}
PPO = {"model": "runs/sft", "reward": "runs/rm", "prompts": "p.jsonl", "out": "runs/ppo"}
LEAST = {
    SFTConfig: SFT,
    RewardConfig: SFT,
    DPOConfig: SFT,
    PPOConfig: PPO,
    SampleConfig: {"model": "runs/sft", "prompts": "p.jsonl"},
    EvalConfig: {"model": "runs/sft", "data": "held.jsonl"},
}


def written(folder: Path, text: str) -> Path:
    file = folder / "sft.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def problems(call: object) -> list[str]:
    """The lines of the error that a call raises."""
    assert callable(call)
    with pytest.raises(ConfigError) as caught:
        call()
    return [str(problem) for problem in caught.value.problems]


def test_the_settings_of_the_documentation_load(tmp_path: Path) -> None:
    text = """
version: 1
model: HuggingFaceTB/SmolLM2-135M
data: [{path: a.jsonl, weight: 2}, b.jsonl]
eval_data: 2%
loss_on: completion
lora: {rank: 8, alpha: 16}
learning_rate: 1e-4
eval_every: 50
samples: ["Explain overfitting."]
out: runs/sft
"""
    config = load_config(SFTConfig, written(tmp_path, text), {})
    assert config.learning_rate == 0.0001
    assert [(item.path, item.weight) for item in config.data] == [("a.jsonl", 2.0), ("b.jsonl", 1.0)]
    assert config.lora == Lora(rank=8, alpha=16)
    assert (config.eval_every, config.samples) == (50, ("Explain overfitting.",))
    assert (config.epochs, config.steps) == (1.0, None)


def test_all_problems_of_a_file_are_told_at_once_each_with_its_line(tmp_path: Path) -> None:
    text = """version: 1
model: x
data: {path: train.jsonl, max_lenght: 512}
max_lenght: 512
out: runs/sft
per_device_train_batch_size: 4
learning_rate: fast
lora: {rank: many}
epochs: -1
samples: [1]
"""
    file = written(tmp_path, text)
    found = problems(lambda: load_config(SFTConfig, file, {}))
    assert [line.removeprefix(str(file)) for line in found] == [
        ":3  unknown key 'data.max_lenght'; did you mean 'max_length'?",
        ":4  unknown key 'max_lenght'; did you mean 'max_length'?",
        ":6  unknown key 'per_device_train_batch_size'; that is TRL's name, here: micro_batch_tokens for memory, and "
        "batch_size: 4 for rows per optimizer step, over all devices together",
        ":7  learning_rate: expected a number above 0 or auto, got 'fast'",
        ":8  lora.rank: expected a whole number of at least 1 or null, got 'many'",
        ":9  epochs: expected a number above 0 or null, got -1",
        ":10  samples: expected text, got 1; write it in quotes: '1'",
    ]


def test_a_flag_wins_over_the_file_and_its_mistakes_name_the_flag(tmp_path: Path) -> None:
    file = written(tmp_path, "model: x\ndata: d\nout: o\nlearning_rate: 1e-3\nlora: null\n")
    config = load_config(SFTConfig, file, {"learning_rate": "1e-4", "lora.rank": "4", "data": ["a", "b"]})
    assert config.learning_rate == 1e-4
    assert config.lora == Lora(rank=4)
    assert [item.path for item in config.data] == ["a", "b"]
    found = problems(lambda: load_config(SFTConfig, file, {"learning_rate": "fast", "lora_r": "4", "epoch": "3"}))
    assert found == [
        "--learning_rate  expected a number above 0 or auto, got 'fast'",
        "--lora_r  unknown flag; that is TRL's name, here: --lora.rank 4",
        "--epoch  unknown flag; did you mean --epochs?",
    ]


@pytest.mark.parametrize(
    ("name", "typed", "value"),
    [
        ("out", "2024", "2024"),
        ("samples", "Say: yes", ("Say: yes",)),
        ("samples", '["a", "b"]', ("a", "b")),
        ("template", "null", None),
        ("eval_data", "5 %", "5 %"),
        ("eval_every", "20", 20),
        ("grad_clip", "null", None),
        ("packing", "off", "off"),
        ("seed", "7", 7),
    ],
)
def test_a_flag_is_text_where_the_setting_is_text_and_yaml_elsewhere(name: str, typed: str, value: object) -> None:
    config = load_config(SFTConfig, None, {**SFT, name: typed})
    assert getattr(config, name) == value


def test_a_group_is_switched_off_by_a_flag(tmp_path: Path) -> None:
    file = written(tmp_path, "model: x\ndata: d\nout: o\nlora: {rank: 4}\n")
    assert load_config(SFTConfig, file, {"lora": "null"}).lora is None


def test_missing_settings_are_named_with_what_they_are() -> None:
    assert problems(lambda: load_config(SFTConfig, None, {"data": "d"})) == [
        "--model  is missing: the model to start from: a run, a Hugging Face folder or a hub id",
        "--out  is missing: the run folder to write; it becomes a model folder",
    ]
    assert problems(lambda: make_config(SFTConfig, {"model": "m", "data": "d"})) == [
        "out is missing: the run folder to write; it becomes a model folder"
    ]


def test_python_keywords_take_paths_and_groups_and_name_mistakes(tmp_path: Path) -> None:
    config = make_config(SFTConfig, {**SFT, "model": tmp_path, "lora": Lora(rank=2), "data": tmp_path / "a"})
    assert (config.model, config.data[0].path) == (str(tmp_path), str(tmp_path / "a"))
    assert problems(lambda: make_config(PPOConfig, {**PPO, "rollout": 3, "beta": {"coeff": 1}})) == [
        "unknown keyword 'beta.coeff'; did you mean beta.coef?",
        "unknown keyword 'rollout'; did you mean rollouts?",
    ]


def test_a_setting_of_another_method_is_told_as_such() -> None:
    (found,) = problems(lambda: make_config(SFTConfig, {**SFT, "rollouts_every": 5}))
    assert found == "unknown keyword 'rollouts_every'; that is a setting of ppo, online-dpo"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: a\nmodel: b\n", ":2  the key 'model' stands here a second time"),
        ("model: [a\n", ":2  is not YAML: "),
        ("- a\n- b\n", ":1  expected settings such as 'model: NAME', got a list"),
        ("model: a\n\tout: b\n", ":2  is not YAML: "),
    ],
)
def test_what_is_no_settings_file_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    file = written(tmp_path, text)
    (found,) = problems(lambda: load_config(SFTConfig, file, {}))
    assert found.removeprefix(str(file)).startswith(says)


def test_a_missing_or_binary_file_is_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone.yaml"
    assert problems(lambda: load_config(SFTConfig, gone, {})) == [f"{gone}  cannot read the settings: no such file"]
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    (found,) = problems(lambda: load_config(SFTConfig, binary, {}))
    assert found == f"{binary}  is not text in UTF-8\n  fix: save it as UTF-8"


@pytest.mark.parametrize("value", ["3", True, 3.0])
def test_nothing_is_converted_to_a_whole_number(value: object) -> None:
    assert "expected a whole number" in problems(lambda: make_config(SFTConfig, {**SFT, "batch_size": value}))[0]


@pytest.mark.parametrize(
    ("config", "settings", "says"),
    [
        (SFTConfig, {**SFT, "steps": 3, "epochs": 1.0}, "steps: set either epochs or steps, the other null"),
        (SFTConfig, {**SFT, "epochs": None}, "steps: set either epochs or steps, the other null"),
        (SFTConfig, {**SFT, "data": []}, "data: names no source"),
        (SFTConfig, {**SFT, "compile": True, "packing": "off"}, "compile: layers that run one sequence at a time are"),
        (DPOConfig, {**SFT, "loss": "hinge", "label_smoothing": 0.1}, "label_smoothing: loss hinge has no label"),
        (PPOConfig, {**PPO, "rollouts": 6, "group": 4}, "rollouts: 6 answers do not divide into groups of 4"),
        (PPOConfig, {**PPO, "rollouts": 2, "minibatches": 4}, "minibatches: 4 minibatches need"),
        (PPOConfig, {**PPO, "baseline": "rloo"}, "baseline: rloo compares the answers of one prompt"),
        (PPOConfig, {**PPO, "layout": "adapters"}, "layout: adapters needs lora"),
        (PPOConfig, {**PPO, "layout": "trunk", "baseline": "none"}, "layout: trunk holds a critic"),
        (PPOConfig, {**PPO, "beta": {"target": 6.0, "horizon": 25.6}}, "beta.horizon: 25.6 lets a step of 128 answers"),
        (PPOConfig, {**PPO, "functions": {"timeout": 3.0}}, "functions: no Python function is in reward"),
        (OnlineDPOConfig, {**PPO, "functions": {"at_once": 2}}, "functions: no Python function is in reward"),
        (EvalConfig, {"model": "m", "data": "d", "functions": {"at_once": 2}}, "functions: no Python function is in j"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(
    config: type[Settings], settings: dict[str, object], says: str
) -> None:
    (found,) = problems(lambda: make_config(config, settings))
    assert found.startswith(says)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"baseline": "none", "critic": {"warmup": 3}}, "critic.warmup: baseline none has no critic; leave it out"),
        ({"baseline": "none", "lam": 0.5}, "lam: baseline none has no critic"),
        ({"baseline": "rloo", "group": 2, "value_clip": None}, "value_clip: baseline rloo has no critic"),
        ({"baseline": "group", "group": 2, "gamma": 0.9}, "gamma: baseline group compares whole answers"),
        ({"value_coef": 2.0}, "value_coef: is of a critic on the policy's weights, layout trunk"),
        ({"critic": {"detach": True}}, "critic.detach: is of a critic on the policy's weights"),
        ({"beta": {"horizon": 500.0}}, "beta.horizon: is of an adaptive weight, which needs beta.target"),
        ({"beta": {"coef": 0.0, "target": 6.0}}, "beta.target: a weight that begins at 0 stays there"),
        ({"ppo_epochs": 1, "epoch_kl_stop": 0.1}, "epoch_kl_stop: a step has one update"),
    ],
)
def test_what_changes_nothing_beside_other_settings_is_refused(settings: dict[str, object], says: str) -> None:
    (found,) = problems(lambda: make_config(PPOConfig, {**PPO, **settings}))
    assert found.startswith(says)


def test_a_clash_in_a_file_points_at_its_line(tmp_path: Path) -> None:
    file = written(tmp_path, "model: m\ndata: d\nout: o\nepochs: 2\nsteps: 10\n")
    (found,) = problems(lambda: load_config(SFTConfig, file, {}))
    assert found.startswith(f"{file}:5  steps: ")


@pytest.mark.parametrize("config", list(LEAST), ids=lambda config: config.command)
def test_resolved_settings_run_again(config: type, tmp_path: Path) -> None:
    made = make_config(config, LEAST[config])
    again = load_config(config, written(tmp_path, dump(made)), {})
    assert again == made


def test_resolved_settings_keep_what_yaml_could_misread(tmp_path: Path) -> None:
    data = ["d: # e", {"path": "x", "weight": 2, "columns": {"prompt": "q"}}]
    made = make_config(PPOConfig, {**PPO, "prompts": data, "stop": ["x: y #", "null", "1e-4"], "out": "0"})
    assert load_config(PPOConfig, written(tmp_path, dump(made)), {}) == made
    assert "coef: 0.05" in dump(made)
    assert "template: null" in dump(made)
    assert "# penalty per nat of KL" in dump(made)


def test_a_long_text_stays_on_its_line() -> None:
    text = "Say " + "it again and " * 20 + "stop."
    assert f"- {text}\n" in dump(make_config(SFTConfig, {**SFT, "samples": [text]}))


def test_steps_alone_leave_no_epochs_and_are_written_so(tmp_path: Path) -> None:
    made = make_config(SFTConfig, {**SFT, "steps": 5})
    assert (made.epochs, made.steps) == (None, 5)
    assert load_config(SFTConfig, written(tmp_path, dump(made)), {}) == made


@pytest.mark.parametrize("config", list(CONFIGS.values()), ids=lambda config: config.command)
def test_every_setting_says_in_one_line_what_it_is(config: type) -> None:
    for leaf in leaves(config):
        assert leaf.field.description, leaf.name
        assert len(leaf.field.description) < 100, leaf.name


def test_settings_cannot_be_changed() -> None:
    config = make_config(SFTConfig, SFT)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1


def every_name() -> set[str]:
    """Every setting of every command, groups and their parts."""
    parts = {leaf.name for config in CONFIGS.values() for leaf in leaves(config)}
    return parts | {name for config in CONFIGS.values() for name in config.model_fields}


def test_names_of_other_libraries_lead_to_settings_that_exist() -> None:
    # save_every, keep and track belong to every training method
    assert not {entry.here for entry in RENAMED.values()} - every_name()
    assert len(RENAMED) + len(UNNEEDED) + len(MISSING) >= 400


def test_no_name_of_ours_is_told_as_anothers() -> None:
    theirs = {*RENAMED, *UNNEEDED, *MISSING, *LATER}
    # A stage of the loop has its command's words behind the command's name: eval.temperature.
    ours = {name for name in every_name() if "." not in name or name.partition(".")[0] not in CONFIGS}
    assert not theirs & ours
    assert not [name for name in ours if name.startswith(tuple(FAMILIES))]
    assert len(theirs) == len(RENAMED) + len(UNNEEDED) + len(MISSING) + len(LATER)


@pytest.mark.parametrize(
    ("method", "parameters", "lora", "rate"),
    [("sft", 260_000, False, 1e-3), ("sft", 7_000_000_000, True, 2e-4), ("dpo", 70_000_000_000, False, 5e-7)],
)
def test_the_automatic_learning_rate_is_the_known_one_at_known_sizes(
    method: str, parameters: int, lora: bool, rate: float
) -> None:
    found, reason = auto_learning_rate(method, parameters, lora=lora)
    assert math.isclose(found, rate)
    assert reason.startswith(f"learning_rate {rate:g}: ")


def test_the_automatic_learning_rate_falls_with_size() -> None:
    rates = [auto_learning_rate("ppo", 10**power, lora=False)[0] for power in (5, 6, 7, 8, 9, 10)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 3e-4


def test_precision_and_the_critics_rate_come_with_their_reasons() -> None:
    assert auto_precision("cpu", able=True) == ("fp32", "precision fp32: few CPUs are faster in bf16")
    assert auto_precision("cuda", able=True) == ("bf16", "precision bf16: cuda has it")
    assert auto_precision("cuda", able=False) == ("fp32", "precision fp32: cuda has no bf16")
    assert auto_critic_rate(3e-6) == (3e-6, "critic.learning_rate 3e-06: the policy's")


def test_shares_of_a_run_are_said_in_steps() -> None:
    shares = {"eval_every": "10%", "save_every": 500, "rollouts_every": None}
    assert planned(63, shares) == "eval_every 10% is every 6 steps"
    assert planned(63, {"save_every": 5}) == ""


def test_lengths_and_intervals_follow_from_the_run() -> None:
    assert auto_max_length(512)[0] == 512
    assert auto_max_length(32_768) == (2048, "max_length 2048: enough for most, below the model's context of 32768")
    assert [steps_between("10%", 300), steps_between("10%", 3), steps_between(7, 300), steps_between(None, 300)] == [
        30,
        1,
        7,
        None,
    ]
    assert [held_out_share("2%"), held_out_share("12.5 %"), held_out_share("x.jsonl"), held_out_share(None)] == [
        0.02,
        0.125,
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("file", "flag", "found"), [("epochs: 3.0", "steps", (None, 5)), ("steps: 9", "epochs", (5.0, None))]
)
def test_a_flag_for_steps_or_epochs_replaces_the_files_other(
    tmp_path: Path, file: str, flag: str, found: tuple[float | None, int | None]
) -> None:
    text = f"model: m\ndata: d.jsonl\nout: o\n{file}\n"
    config = load_config(SFTConfig, written(tmp_path, text), {flag: "5"})
    assert (config.epochs, config.steps) == found


def make_lora(**given: object) -> object:
    return Lora(**given)


def test_a_group_that_is_made_wrong_in_python_says_so_in_our_words() -> None:
    assert problems(lambda: Lora(rank=-1)) == ["rank: expected a whole number of at least 1 or null, got -1"]
    assert problems(lambda: make_lora(rnk=3)) == ["unknown keyword 'rnk'; did you mean rank?"]


def test_an_adapter_that_goes_on_has_its_own_shape_and_the_settings_say_so() -> None:
    config = make_config(SFTConfig, {**SFT, "lora": {"start": "continue", "dropout": 0.1}})
    assert config.lora is not None
    assert (config.lora.rank, config.lora.alpha, config.lora.targets) == (None, None, None)
    assert make_config(SFTConfig, config.model_dump()) == config
