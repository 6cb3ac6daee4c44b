"""Every method as a command that is long enough to be killed on its way: what the kills of the tests are aimed at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stages import Stages

Words = list[str]
SAVING = "--save_every 3"
PASSES = "--steps 14 --batch_size 4 --learning_rate 0.01 --eval_data 20% --eval_every 4"
LORA = "--lora.rank 4 --lora.alpha 8"
PPO = (
    "--steps 3 --rollouts 8 --group 2 --max_new_tokens 8 --ppo_epochs 2 --minibatches 2 --rollouts_every 2 "
    "--learning_rate 0.01"
)
CRITIC = "--critic.warmup 2 --beta.target 3"
ONLINE = "--steps 12 --rollouts 8 --group 4 --max_new_tokens 8 --rollouts_every 2 --learning_rate 0.01"
KEPT = (
    "--layout separate --reward_scale running --epoch_kl_stop 0.02 --ptx.batch_size 2 --ema 0.9 --eval_prompts 30% "
    "--eval_every 1 --stop_if.kl 1000 --best eval_score_sampled"
)
FUNCTIONS = "--baseline rloo --functions.timeout 60 --functions.at_once 4 --functions.max_failures 60%"
FLAKY = '''"""A reward that has no score for some answers."""


def flaky(prompt: str, response: str) -> float:
    if int(prompt.split()[0]) % 4 == 1:
        raise ValueError(f"no score for {prompt}")
    return -float(len(response))
'''


def commands(stages: Stages, folder: Path) -> Mapping[str, Words]:
    """Every method, and PPO in every layout, without `--out`; files of their own go into `folder`.

    All but PPO keep their best weights, those over rows by themselves, since they pass over them several times.
    """
    rows = [f'{{"text": "{n} is {word}", "label": "{word}"}}\n' for n, word in enumerate(["red", "round", "loud"] * 6)]
    labels, flaky = folder / "labels.jsonl", folder / "flaky.py"
    labels.write_text("".join(rows), encoding="utf-8")
    flaky.write_text(FLAKY, encoding="utf-8")
    lora, rankings, prompts = stages.sft_lora, f"--data {stages.rankings}", f"--prompts {stages.prompts}"
    judge, judge_lora = f"--reward {stages.reward}", f"--reward {stages.reward_lora}"
    words = {
        "sft": f"sft --model {stages.base} --data {stages.chats} {PASSES}",
        "sft-dropout": f"sft --model {stages.base} --data {stages.chats} {PASSES} {LORA} --lora.dropout 0.2",
        "reward": f"reward --model {stages.sft} {rankings} {PASSES} --best eval_accuracy",
        "classify": f"classify --model {stages.base} --data {labels} {PASSES}",
        "dpo": f"dpo --model {lora} {rankings} {PASSES} {LORA}",
        "dpo-kto": f"dpo --loss kto --model {stages.sft} {rankings} {PASSES}",
        "online-dpo": f"online-dpo --model {lora} {judge_lora} {prompts} {ONLINE} {LORA} --best reward",
        "ppo-separate": f"ppo --model {stages.sft} {judge} {prompts} {PPO} {CRITIC}",
        "ppo-adapters": f"ppo --model {lora} {judge_lora} {prompts} {PPO} {CRITIC} {LORA} --layout adapters",
        "ppo-trunk": f"ppo --model {lora} {judge} {prompts} {PPO} {CRITIC} {LORA} --layout trunk",
        "ppo-kept": f"ppo --model {lora} {judge} {prompts} {PPO} {CRITIC} {LORA} {KEPT} --ptx.data {stages.chats}",
        "ppo-functions": f"ppo --model {lora} --reward {flaky}:flaky {prompts} {PPO} {LORA} {FUNCTIONS}",
    }
    asked = {"sft", "sft-dropout", "dpo"}
    return {
        name: [*text.split(), *SAVING.split(), *(["--samples", "1 + 1 ="] if name in asked else [])]
        for name, text in words.items()
    }


METHODS = (
    "sft", "sft-dropout", "reward", "classify", "dpo", "dpo-kto", "online-dpo", "ppo-separate", "ppo-adapters",
    "ppo-trunk", "ppo-kept", "ppo-functions",
)  # fmt: skip
