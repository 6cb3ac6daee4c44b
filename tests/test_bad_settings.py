"""Bad settings through the real command line: the exact words, exit 2, no traceback, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

import posttrain
from posttrain.cli import main

LORA = "{rank, alpha, dropout, targets, rank_pattern, alpha_pattern, rslora, dora, start}"
LEAST = "model: m\ndata: train.jsonl\nout: run\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a refused command says on standard error, without the word error."""
    before = sorted(Path().rglob("*"))
    assert main(words) == 2
    assert sorted(Path().rglob("*")) == before
    out, error = capsys.readouterr()
    assert (out, error[:7], error[-1]) == ("", "error: ", "\n")
    assert "Traceback" not in error
    return error[7:-1]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("learning_rate: fast", "learning_rate: expected a number above 0 or auto, got 'fast'"),
        ("learning_rate: .inf", "learning_rate: expected a number above 0 or auto, got inf"),
        ("learning_rate: .nan", "learning_rate: expected a number above 0 or auto, got nan"),
        ("batch_size: -1", "batch_size: expected a whole number of at least 1, got -1"),
        (
            "batch_size: '32'",
            "batch_size: expected a whole number of at least 1, got '32'; write it without quotes: 32",
        ),
        ("batch_size: 32.0", "batch_size: expected a whole number of at least 1, got 32.0; write 32"),
        ("batch_size: 1e2", "batch_size: expected a whole number of at least 1, got 100.0; write 100"),
        ("seed: 1.5", "seed: expected a whole number of at least 0, got 1.5"),
        ("max_length: 10k", "max_length: expected a whole number of at least 1 or auto, got '10k'; write 10000"),
        (
            "max_length: null",
            "max_length: expected a whole number of at least 1 or auto, got null; write auto, or leave it out",
        ),
        ("schedule: cosin", "schedule: expected cosine or linear or constant, got 'cosin'; did you mean cosine?"),
        ("schedule: Cosine", "schedule: expected cosine or linear or constant, got 'Cosine'; write cosine"),
        (
            "schedule: constant_with_warmup",
            "schedule: expected cosine or linear or constant, got 'constant_with_warmup'; write constant",
        ),
        ("grad_clip: 0", "grad_clip: expected a number above 0 or null, got 0"),
        ("warmup: 3%", "warmup: expected a number of at least 0 and at most 1, got '3%'; write 0.03"),
        (
            "warmup: 100",
            "warmup: expected a number of at least 0 and at most 1, got 100; "
            "it is a share of the steps: 100 of 1000 is 0.1",
        ),
        ("eval_data: 0.02", "eval_data: expected a share such as 10% or text or null, got 0.02; write 2%"),
        ("eval_data: 150%", "eval_data: expected a share up to 100%, got '150%'"),
        (
            "eval_every: 0.1",
            "eval_every: expected a share such as 10% or a whole number of at least 1 or null, got 0.1; write 10%",
        ),
        ("max_bad: 500%", "max_bad: expected a share such as 10%, got '500%'; at most 100%"),
        ("version: 2", "version: expected 1, got 2; this posttrain reads version 1"),
        ("precision: bfloat16", "precision: expected auto or fp32 or bf16 or fp16, got 'bfloat16'; write bf16"),
        ("precision: float16", "precision: expected auto or fp32 or bf16 or fp16, got 'float16'; write fp16"),
        (
            "packing: true",
            "packing: expected auto or off, got true; write auto: here packing changes the speed, never the results",
        ),
        ("lora: 8", f"lora: expected a group {LORA} or null, got 8; write {{rank: 8}}"),
        ("lora: true", f"lora: expected a group {LORA} or null, got true; write {{rank: 32}}"),
        (
            "lora: {rank_pattern: {q_proj: 0}}",
            "lora.rank_pattern: expected a mapping of texts to whole numbers of at least 1 or null, got {q_proj: 0}",
        ),
        (
            "lora: {alpha_pattern: {q_proj: 0}}",
            "lora.alpha_pattern: expected a mapping of texts to numbers above 0 or null, got {q_proj: 0}",
        ),
        (
            "lora: {start: continue, dora: true}",
            "lora.dora: start continue keeps the adapter's own shape: leave this out",
        ),
        ("lora: {rank: null}", "lora.rank: null is for start continue, where the model's own adapter has it"),
        (
            "lora: {dora: true, dropout: 0.1}",
            "lora.dropout: with dora it would act on the base's part of a layer too; use 0",
        ),
        ("lora: {use_rslora: true}", "unknown key 'lora.use_rslora'; that is TRL's name, here: lora.rslora"),
        ("peft_use_dora: true", "unknown key 'peft_use_dora'; that is axolotl's name, here: lora: {dora: true}"),
        ("lora: {rank: 8, alhpa: 2}", "unknown key 'lora.alhpa'; did you mean 'lora.alpha'?"),
        ("lora: {r: 8}", "unknown key 'lora.r'; that is TRL's name, here: lora.rank"),
        ("lora.rank: 8", "unknown key 'lora.rank'; write lora: {rank: 8}"),
        ("samples: {a: b}", "samples: expected a list of texts, got a group of settings"),
        ("samples: [1]", "samples: expected text, got 1; write it in quotes: '1'"),
        ("max_lenght: 8", "unknown key 'max_lenght'; did you mean 'max_length'?"),
        ("rollouts: 8", "unknown key 'rollouts'; that is a setting of ppo, online-dpo"),
        ("1: 2", "unknown key '1'"),
        ("quantize: 4bit", "quantize: weights in few bits cannot be trained: set lora, for example lora: {rank: 32}"),
        ("quantize: 4", "quantize: expected 8bit or 4bit or null, got 4; write 4bit"),
        ("optimizer: adamw_bnb_8bit", "optimizer: expected adamw or adamw8bit, got 'adamw_bnb_8bit'; write adamw8bit"),
        ("optimizer: lion", "optimizer: expected adamw or adamw8bit, got 'lion'"),
        ("torch_compile: true", "unknown key 'torch_compile'; that is TRL's name, here: compile: true"),
        ("load_in_4bit: true", "unknown key 'load_in_4bit'; that is TRL's name, here: quantize: 4bit"),
        ("quantization_bit: 8", "unknown key 'quantization_bit'; that is LLaMA-Factory's name, here: quantize: 8bit"),
        (
            "adapter: qlora",
            "unknown key 'adapter'; that is axolotl's name, here: lora: {rank: 32}, with quantize: 4bit",
        ),
        ("adam_offload: true", "unknown key 'adam_offload'; that is OpenRLHF's name, here: offload: optimizer"),
        ("tokens: [<|a|>]", "unknown key 'tokens'; that is axolotl's name, here: add_tokens: [<|a|>]"),
        (
            "create_new_adapter: false",
            "unknown key 'create_new_adapter'; that is LLaMA-Factory's name, here: lora: {start: continue}",
        ),
        ("offload: frozen", "offload: sft has no model that is only read; use optimizer"),
    ],
)
def test_a_wrong_line_of_a_file(line: str, says: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "sft.yaml").write_text(f"{LEAST}{line}\n")
    assert said(["sft", "sft.yaml"], capsys) == f"sft.yaml:4  {says}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LEAST + "model: n\n", "sft.yaml:4  the key 'model' stands here a second time\n  fix: keep one of the two"),
        (LEAST + "epochs: 2\nsteps: 5\n", "sft.yaml:5  steps: set either epochs or steps, the other null"),
        ("data: d\nout: o\nmodel: null\n", "sft.yaml:3  model: expected text, got null"),
        ("data: d\nout: o\nmodel: [a]\n", "sft.yaml:3  model: expected text, got a list"),
        ("model: m\nout: o\ndata: []\n", "sft.yaml:3  data: names no source"),
        (
            "model: m\nout: o\ndata:\n  - {path: a, weigth: 2}\n",
            "sft.yaml:4  unknown key 'data.weigth'; did you mean 'data.weight'?",
        ),
        (
            "model: m\nout: o\ndata:\n  - a.jsonl\n  - {path: b, weight: 0}\n",
            "sft.yaml:5  data.weight: expected a number above 0, got 0",
        ),
        (
            "model: m\nout: o\ndata: {path: a, type: alpaca}\n",
            "sft.yaml:3  unknown key 'data.type'; that is axolotl's name, not needed here: "
            "the format is recognised from the rows",
        ),
        (
            "model: m\ndata: d\nout: ${RUNS}/a\n",
            "sft.yaml:3  out: '${RUNS}/a' holds a variable, which only a shell fills in; "
            "write the path, or give it as a flag",
        ),
        ("model: m\n\tout: b\n", "sft.yaml:2  is not YAML: found character '\\t' that cannot start any token\n"
         "  fix: indent with spaces"),
        ("model: 'm\n", "sft.yaml:2  is not YAML: found unexpected end of stream"),
        ("model: *nobody\n", "sft.yaml:1  is not YAML: found undefined alias 'nobody'"),
        ("a: 1\n---\nb: 2\n", "sft.yaml:2  is not YAML: but found another document"),
        ("- a\n- b\n", "sft.yaml:1  expected settings such as 'model: NAME', got a list"),
        ("just text\n", "sft.yaml:1  expected settings such as 'model: NAME', got one value"),
        ("model: !!python/object:os.system m\ndata: d\nout: o\n",
         "sft.yaml:1  model: expected text, got a value with a tag"),
        (b"model: caf\xe9\n", "sft.yaml  is not text in UTF-8\n  fix: save it as UTF-8"),
        (LEAST.encode("utf-16"), "sft.yaml  is not text in UTF-8\n  fix: save it as UTF-8"),
        (
            "",
            "3 problems\n"
            "  sft.yaml  data is missing: what to train on: a path, or a list of {path, weight, columns}\n"
            "  sft.yaml  model is missing: the model to start from: a run, a Hugging Face folder or a hub id\n"
            "  sft.yaml  out is missing: the run folder to write; it becomes a model folder",
        ),
    ],
)  # fmt: skip
def test_a_wrong_file(text: str | bytes, says: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "sft.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert said(["sft", "sft.yaml"], capsys) == says


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("stf", "unknown command 'stf'; did you mean sft?"),
        ("train", "unknown command 'train'; did you mean sft?"),
        ("trian", "unknown command 'trian'; did you mean sft?"),
        ("chek", "unknown command 'chek'; did you mean check?"),
        ("sft -q", "-q  unknown flag; did you mean --quiet?"),
        ("check a.jsonl -x", "-x  unknown flag"),
        ("check a.yaml b.jsonl", "unexpected argument 'b.jsonl'"),
        ("sample runs/a runs/b", "unexpected argument 'runs/b'"),
        ("sft --bf16", "--bf16  unknown flag; that is TRL's name, here: --precision bf16"),
        ("sft --bf16 false", "--bf16  unknown flag; that is TRL's name, here: --precision auto"),
        ("sft --use_peft", "--use_peft  unknown flag; that is TRL's name, here: --lora {rank: 32}"),
        (
            "quux",
            "unknown command 'quux'; there are demo, init, check, sft, classify, sample, rank, reward, ppo, dpo, "
            "online-dpo, rlhf, eval, chat, report, runs, merge, selftest",
        ),
        ("init stf", "no settings are named 'stf'; did you mean sft?"),
        ("sft --lora_rank 16", "--lora_rank  unknown flag; that is LLaMA-Factory's name, here: --lora.rank 16"),
        ("sft --zero_stage 3", "--zero_stage  unknown flag; that is OpenRLHF's name, not needed here: "
         "one process holds the model, nothing is sharded"),
        ("sft --pretrain m", "--pretrain  unknown flag; that is OpenRLHF's name, here: --model m"),
        ("sft -lr 1e-4", "-lr  unknown flag; that is axolotl's name, here: --learning_rate 0.0001"),
        ("sft --config a.yaml", "--config  unknown flag; a settings file stands without one: posttrain sft a.yaml"),
        ("ppo --beta 0.1", "--beta  unknown flag; its parts are set one by one: "
         "--beta.coef, --beta.target, --beta.horizon, --beta.estimator"),
        ("sft --out", "--out  needs a value"),
        ("sft --out --seed 3", "--out  needs a value"),
        ("sft --out a --out b", "--out  is given twice"),
        ("sft --max-bad 1% --max_bad 2%", "--max_bad  is given twice"),
        ("sft a.yaml b.yaml", "unexpected argument 'b.yaml'"),
        ("sft train.jsonl", "train.jsonl  is data; a settings file in YAML stands here\n"
         "  fix: posttrain sft --data train.jsonl ..."),
        ("ppo p.csv", "p.csv  is data; a settings file in YAML stands here\n  fix: posttrain ppo --prompts p.csv ..."),
        ("dpo .", ".  is a folder; a settings file in YAML stands here\n  fix: posttrain dpo --model . ..."),
        ("sft gone.yaml", "gone.yaml  cannot read the settings: no such file"),
        ("sft runs/base", "runs/base  cannot read the settings: no such file\n"
         "  fix: settings are a YAML file; a model is given as --model, data as --data"),
        ("sample runs/a --model runs/b", "the model is given twice: 'runs/a' and --model"),
        ("dpo --model m --data d --out o --loss bco_pair",
         "--loss  expected sigmoid or ipo or hinge or robust or simpo or orpo or kto, got 'bco_pair'; not in this "
         "version: sigmoid is the usual choice"),
        ("dpo --model m --data d --out o --loss sigmoid_norm",
         "--loss  expected sigmoid or ipo or hinge or robust or simpo or orpo or kto, got 'sigmoid_norm'; "
         "write loss: sigmoid and length_normalize: true"),
        ("ppo --model m --reward r --prompts p --out o --whiten yes",
         "--whiten  expected true or false, got 'yes'; write true"),
        ("sft --model m --data d --out o --lora 32",
         "--lora  expected a group {rank, alpha, dropout, targets, rank_pattern, alpha_pattern, "
         "rslora, dora, start} or null, got 32; write {rank: 32}"),
        ("sft --per_device_train_batch_size 8 --gradient_accumulation_steps 4", "2 problems\n"
         "  --per_device_train_batch_size  unknown flag; that is TRL's name, here: micro_batch_tokens for memory, "
         "and --batch_size 32 for rows per optimizer step, over all devices together\n"
         "  --gradient_accumulation_steps  unknown flag; that is TRL's name, here: micro_batch_tokens for memory, "
         "and --batch_size 32 for rows per optimizer step, over all devices together"),
    ],
)  # fmt: skip
def test_a_wrong_command_line(words: str, says: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(words.split(), capsys) == says


@pytest.mark.parametrize(
    ("text", "learning_rate"),
    [
        (LEAST + "learning_rate: 1e-4\n", 1e-4),
        (LEAST + "learning_rate: 5E-5\n", 5e-5),
        (LEAST.replace("\n", "\r\n") + "learning_rate: 1e-4\r\n", 1e-4),
        ("\ufeff" + LEAST + "learning_rate: 1e-4", 1e-4),
        (LEAST + "learning_rate: &rate 1e-4\nweight_decay: *rate\n", 1e-4),
        (LEAST + "lora: {<<: {rank: 4}, alpha: 8}\nlearning_rate: 1e-4 # as before\n", 1e-4),
        ('{"model": "m", "data": ["train.jsonl"], "out": "run", "learning_rate": 1e-4}', 1e-4),
    ],
    ids=["yaml 1.2", "capital", "windows", "bom", "anchor", "merge", "json"],
)
def test_what_is_right_in_another_form_is_taken(
    text: str, learning_rate: float, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    monkeypatch.setattr(posttrain, "start", lambda config, **options: seen.append(config.learning_rate))
    (folder / "sft.yaml").write_bytes(text.encode())
    assert main(["sft", "sft.yaml"]) == 0
    assert seen == [learning_rate]


# --- whole settings files of other libraries ------------------------------------------------------------------------

THEIRS = Path(__file__).parent / "foreign"


@pytest.mark.parametrize(
    ("name", "command"), [("trl", "sft"), ("trl_ppo", "ppo"), ("axolotl", "sft"), ("llamafactory", "dpo")]
)
def test_a_whole_settings_file_of_another_library_is_answered_line_by_line(
    name: str, command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / f"{name}.yaml").write_text((THEIRS / f"{name}.yaml").read_text(encoding="utf-8"))
    assert said([command, f"{name}.yaml"], capsys) + "\n" == (THEIRS / f"{name}.txt").read_text(encoding="utf-8")


def test_what_is_said_of_a_foreign_file_is_a_settings_file_that_loads(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = (THEIRS / "axolotl.txt").read_text(encoding="utf-8").split("as far as it can be told:\n")[1]
    (folder / "sft.yaml").write_text(told.replace("\n    ", "\n").removeprefix("    "))
    seen: list[object] = []
    monkeypatch.setattr(posttrain, "start", lambda config, **options: seen.append(config))
    assert main(["sft", "sft.yaml"]) == 0
    assert len(seen) == 1


def test_openrlhf_flags_are_answered_together(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "ppo --actor.model_name_or_path m --reward.model_name_or_path r --data.prompt_dataset p.jsonl "
    words += (
        "--rollout.n_samples_per_prompt 4 --algo.kl.init_coef 1e-2 --ds.zero_stage 2 --algo.advantage.estimator gae"
    )
    assert said(words.split(), capsys).splitlines() == [
        "7 problems",
        "  --actor.model_name_or_path  unknown flag; that is OpenRLHF's name, here: --model m",
        "  --reward.model_name_or_path  unknown flag; that is OpenRLHF's name, here: --reward r",
        "  --data.prompt_dataset  unknown flag; that is OpenRLHF's name, here: --prompts p.jsonl",
        "  --rollout.n_samples_per_prompt  unknown flag; that is OpenRLHF's name, here: --group 4",
        "  --algo.kl.init_coef  unknown flag; that is OpenRLHF's name, here: --beta.coef 0.01",
        "  --ds.zero_stage  unknown flag; that is OpenRLHF's name, not needed here: "
        "one process holds the model, nothing is sharded",
        "  --algo.advantage.estimator  unknown flag; that is OpenRLHF's name, here: --baseline critic",
    ]
