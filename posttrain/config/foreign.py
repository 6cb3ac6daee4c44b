"""Names that other libraries use, and what the same idea is called here."""

from __future__ import annotations

from typing import NamedTuple


class Foreign(NamedTuple):
    """Whose name it is, and the setting here (`""`: there is none, `note` says why)."""

    owner: str
    here: str
    note: str = ""


_TRL, _AXOLOTL, _FACTORY, _OPENRLHF = "TRL", "axolotl", "LLaMA-Factory", "OpenRLHF"

FOREIGN: dict[str, Foreign] = {
    # sizes of batches
    "per_device_train_batch_size": Foreign(_TRL, "micro_batch_tokens", "batch_size counts rows over all devices"),
    "per_device_eval_batch_size": Foreign(_TRL, "micro_batch_tokens", "evaluation does not depend on it"),
    "gradient_accumulation_steps": Foreign(
        _TRL, "batch_size", "rows per optimizer step; micro_batch_tokens bounds memory"
    ),
    "auto_find_batch_size": Foreign(_TRL, "micro_batch_tokens"),
    "micro_batch_size": Foreign(_AXOLOTL, "micro_batch_tokens", "batch_size counts rows over all devices"),
    "micro_train_batch_size": Foreign(_OPENRLHF, "micro_batch_tokens"),
    "train_batch_size": Foreign(_OPENRLHF, "batch_size"),
    "rollout_batch_size": Foreign(_OPENRLHF, "rollouts"),
    # length of the run
    "num_train_epochs": Foreign(_TRL, "epochs"),
    "num_epochs": Foreign(_AXOLOTL, "epochs"),
    "max_epochs": Foreign(_OPENRLHF, "epochs"),
    "max_steps": Foreign(_TRL, "steps"),
    "total_episodes": Foreign(_TRL, "steps", "steps x rollouts answers in all"),
    "eval_steps": Foreign(_TRL, "eval_every"),
    # model and data
    "model_name_or_path": Foreign(_TRL, "model"),
    "base_model": Foreign(_AXOLOTL, "model"),
    "pretrain": Foreign(_OPENRLHF, "model"),
    "dataset_name": Foreign(_TRL, "data"),
    "dataset": Foreign(_FACTORY, "data"),
    "datasets": Foreign(_AXOLOTL, "data"),
    "train_file": Foreign(_TRL, "data"),
    "eval_dataset": Foreign(_TRL, "eval_data"),
    "val_size": Foreign(_FACTORY, "eval_data"),
    "val_set_size": Foreign(_AXOLOTL, "eval_data"),
    "prompt_data": Foreign(_OPENRLHF, "prompts"),
    "output_dir": Foreign(_TRL, "out"),
    "save_path": Foreign(_OPENRLHF, "out"),
    "chat_template": Foreign(_AXOLOTL, "template"),
    # lengths
    "max_seq_length": Foreign(_TRL, "max_length"),
    "max_len": Foreign(_OPENRLHF, "max_length"),
    "cutoff_len": Foreign(_FACTORY, "max_length"),
    "sequence_len": Foreign(_AXOLOTL, "max_length"),
    "response_length": Foreign(_TRL, "max_new_tokens"),
    "max_completion_length": Foreign(_TRL, "max_new_tokens"),
    "generate_max_len": Foreign(_OPENRLHF, "max_new_tokens"),
    # optimisation
    "lr": Foreign(_AXOLOTL, "learning_rate"),
    "actor_learning_rate": Foreign(_OPENRLHF, "learning_rate"),
    "critic_learning_rate": Foreign(_OPENRLHF, "critic.learning_rate"),
    "lr_scheduler_type": Foreign(_TRL, "schedule"),
    "lr_scheduler": Foreign(_AXOLOTL, "schedule"),
    "warmup_ratio": Foreign(_TRL, "warmup"),
    "warmup_steps": Foreign(_TRL, "warmup", "a share of the steps"),
    "max_grad_norm": Foreign(_TRL, "grad_clip"),
    "max_norm": Foreign(_OPENRLHF, "grad_clip"),
    "bf16": Foreign(_TRL, "precision", "precision: bf16"),
    "fp16": Foreign(_TRL, "precision", "fp32 or bf16"),
    "sample_packing": Foreign(_AXOLOTL, "packing"),
    "train_on_inputs": Foreign(_AXOLOTL, "loss_on", "loss_on: all"),
    "assistant_only_loss": Foreign(_TRL, "loss_on", "loss_on: assistant"),
    "completion_only_loss": Foreign(_TRL, "loss_on", "loss_on: completion"),
    # adapters
    "use_peft": Foreign(_TRL, "lora", "lora: {rank: 32}"),
    "lora_r": Foreign(_TRL, "lora.rank"),
    "lora_rank": Foreign(_FACTORY, "lora.rank"),
    "lora_alpha": Foreign(_TRL, "lora.alpha"),
    "lora_dropout": Foreign(_TRL, "lora.dropout"),
    "lora_target_modules": Foreign(_TRL, "lora.targets"),
    "lora_target": Foreign(_FACTORY, "lora.targets"),
    # reinforcement learning and preferences
    "reward_model_path": Foreign(_TRL, "reward"),
    "reward_pretrain": Foreign(_OPENRLHF, "reward"),
    "reward_funcs": Foreign(_TRL, "reward"),
    "kl_coef": Foreign(_TRL, "beta.coef"),
    "init_kl_coef": Foreign(_OPENRLHF, "beta.coef"),
    "kl_target": Foreign(_OPENRLHF, "beta.target"),
    "kl_horizon": Foreign(_OPENRLHF, "beta.horizon"),
    "kl_estimator": Foreign(_TRL, "beta.estimator"),
    "cliprange": Foreign(_TRL, "clip"),
    "eps_clip": Foreign(_OPENRLHF, "clip"),
    "cliprange_value": Foreign(_TRL, "value_clip"),
    "vf_coef": Foreign(_TRL, "value_coef"),
    "num_ppo_epochs": Foreign(_TRL, "ppo_epochs"),
    "num_mini_batches": Foreign(_TRL, "minibatches"),
    "whiten_rewards": Foreign(_TRL, "whiten", "it whitens advantages, never rewards"),
    "num_generations": Foreign(_TRL, "group"),
    "n_samples_per_prompt": Foreign(_OPENRLHF, "group"),
    "lambd": Foreign(_OPENRLHF, "lam"),
    "loss_type": Foreign(_TRL, "loss"),
    "pref_beta": Foreign(_FACTORY, "beta"),
    "pref_loss": Foreign(_FACTORY, "loss"),
    "ref_model": Foreign(_TRL, "reference"),
    "num_return_sequences": Foreign(_TRL, "k"),
}
