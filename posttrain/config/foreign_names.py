"""The option names of TRL 1.16, axolotl 0.19, LLaMA-Factory 0.9 and OpenRLHF 0.11, and what the same idea is here.

Each name has its owners as letters (the first is named when nothing else tells), and either the setting here with a
note, or the reason why there is none. What no library is asked for by name is told by how its name begins.
"""

from __future__ import annotations

from typing import NamedTuple

OWNERS = {"T": "TRL", "A": "axolotl", "L": "LLaMA-Factory", "O": "OpenRLHF"}


class Foreign(NamedTuple):
    """Whose name it is, the setting here with a note, or, when there is none (`here` is empty), the reason."""

    owners: str
    here: str = ""
    note: str = ""


_FILE = "a path or a hub id; the format is recognised, columns: {prompt: question} names other columns"
_RESUME = "the same command resumes by itself"
_TEXT = "the format of the rows is recognised from their keys and values"
_METHOD = "the command says the method: posttrain sft, reward, ppo or dpo"

# name: owners, setting here, note
RENAMED: dict[str, Foreign] = {
    name: Foreign(*entry)
    for name, entry in {
        # rows of a step
        "per_device_train_batch_size": ("TL", "batch_size"),
        "gradient_accumulation_steps": ("TAL", "batch_size"),
        "micro_batch_size": ("A", "batch_size"),
        "train_batch_size": ("O", "batch_size"),
        "train.batch_size": ("O", "batch_size"),
        "micro_train_batch_size": ("O", "micro_batch_tokens", "counted in tokens, so that memory is bounded"),
        "train.micro_batch_size": ("O", "micro_batch_tokens", "counted in tokens, so that memory is bounded"),
        "train.max_tokens_per_gpu": ("O", "micro_batch_tokens"),
        "per_device_eval_batch_size": ("TL", "micro_batch_tokens", "evaluation does not depend on it"),
        "eval_batch_size": ("A", "micro_batch_tokens", "evaluation does not depend on it"),
        "auto_find_batch_size": ("TA", "micro_batch_tokens", "tokens per forward; memory, not results"),
        "rollout_batch_size": ("O", "rollouts", "answers, not prompts: prompts x group"),
        "rollout.batch_size": ("O", "rollouts", "answers, not prompts: prompts x group"),
        "generation_batch_size": ("TA", "rollouts"),
        "ppo_buffer_size": ("L", "rollouts"),
        # length of the run
        "num_train_epochs": ("TL", "epochs"),
        "num_epochs": ("A", "epochs"),
        "max_epochs": ("O", "epochs"),
        "train.max_epochs": ("O", "epochs"),
        "max_steps": ("TAL", "steps"),
        "total_episodes": ("T", "steps", "steps x rollouts answers in all"),
        "num_episodes": ("O", "steps", "steps x rollouts answers in all"),
        "train.num_episodes": ("O", "steps", "steps x rollouts answers in all"),
        "eval_steps": ("TAL", "eval_every"),
        "evals_per_epoch": ("A", "eval_every", "a share of the run, or a number of steps"),
        "eval.steps": ("O", "eval_every"),
        "eval_strategy": ("TAL", "eval_every", "a number of steps, a share of the run, or null"),
        "evaluation_strategy": ("TAL", "eval_every", "a number of steps, a share of the run, or null"),
        "save_steps": ("TALO", "save_every", "a number of steps, a share of the run, or null"),
        "saves_per_epoch": ("A", "save_every", "a share of the run, or a number of steps"),
        "ckpt.save_steps": ("O", "save_every"),
        "save_strategy": ("TAL", "save_every", "a number of steps, a share of the run, or null"),
        "save_total_limit": ("TAL", "keep", "how many checkpoints stay"),
        "max_ckpt_num": ("O", "keep", "how many checkpoints stay"),
        "ckpt.max_num": ("O", "keep", "how many checkpoints stay"),
        # model, data, output
        "model_name_or_path": ("TL", "model"),
        "base_model": ("A", "model"),
        "pretrain": ("O", "model"),
        "model.model_name_or_path": ("O", "model"),
        "actor.model_name_or_path": ("O", "model"),
        "adapter_name_or_path": ("L", "model", "an adapter's folder is a model; its base is found from it"),
        "lora_model_dir": ("A", "model", "an adapter's folder is a model; its base is found from it"),
        "dataset_name": ("T", "data", _FILE),
        "dataset": ("LO", "data", _FILE),
        "datasets": ("AT", "data", _FILE),
        "data.dataset": ("O", "data", _FILE),
        "train_file": ("T", "data"),
        "pretraining_dataset": ("A", "data", "rows with the key text"),
        "dataset_config": ("T", "data", "data: [{path, subset}]"),
        "dataset_train_split": ("T", "data", "data: [{path, split}]"),
        "dataset_text_field": ("T", "data", "data: [{path, columns: {text: THEIRS}}]"),
        "data.input_key": ("O", "data", "data: [{path, columns: {prompt: THEIRS}}]"),
        "input_key": ("O", "data", "data: [{path, columns: {prompt: THEIRS}}]"),
        "interleave_probs": ("L", "data", "data: [{path, weight}]"),
        "data.dataset_probs": ("O", "data", "data: [{path, weight}]"),
        "dataset_dir": ("L", "data", "give the path of the file itself"),
        "eval_dataset": ("TL", "eval_data"),
        "eval.dataset": ("O", "eval_data"),
        "test_datasets": ("A", "eval_data"),
        "dataset_test_split": ("T", "eval_data", "a file, or a share such as 2%"),
        "val_size": ("L", "eval_data"),
        "val_set_size": ("A", "eval_data"),
        "test_split_size": ("T", "eval_data"),
        "prompt_data": ("O", "prompts"),
        "data.prompt_dataset": ("O", "prompts"),
        "output_dir": ("TAL", "out"),
        "save_path": ("O", "out"),
        "ckpt.output_dir": ("O", "out"),
        "chat_template": ("A", "template", "null keeps the model's own"),
        "chat_template_path": ("T", "template"),
        "chat_template_jinja": ("A", "template", "the path of a file"),
        "data.tokenizer_chat_template": ("O", "template", "the path of a file"),
        "tokenizer_chat_template": ("O", "template", "the path of a file"),
        "report_to": ("TL", "track"),
        "use_tensorboard": ("AO", "track", "track: tensorboard"),
        "use_wandb": ("O", "track", "track: wandb"),
        "use_mlflow": ("A", "track", "track: mlflow"),
        "use_trackio": ("A", "track", "track: trackio"),
        "wandb_project": ("A", "track", "track: wandb; the project comes from WANDB_PROJECT"),
        "data_seed": ("TL", "seed"),
        "train.seed": ("O", "seed"),
        # lengths
        "max_seq_length": ("T", "max_length"),
        "model_max_length": ("L", "max_length"),
        "max_len": ("O", "max_length"),
        "data.max_len": ("O", "max_length"),
        "cutoff_len": ("L", "max_length"),
        "sequence_len": ("A", "max_length"),
        "excess_length_strategy": ("A", "overlong"),
        "truncation_mode": ("T", "overlong", "overlong: truncate cuts the end of the last answer"),
        "response_length": ("T", "max_new_tokens"),
        "max_completion_length": ("TA", "max_new_tokens"),
        "generate_max_len": ("O", "max_new_tokens"),
        "rollout.max_new_tokens": ("O", "max_new_tokens"),
        "rollout.temperature": ("O", "temperature"),
        # optimisation
        "lr": ("A", "learning_rate"),
        "adam.lr": ("O", "learning_rate"),
        "actor_learning_rate": ("O", "learning_rate"),
        "critic_learning_rate": ("O", "critic.learning_rate"),
        "lr_scheduler_type": ("TL", "schedule"),
        "lr_scheduler": ("AO", "schedule"),
        "warmup_ratio": ("TAL", "warmup"),
        "lr_warmup_ratio": ("O", "warmup"),
        "warmup_steps": ("TAL", "warmup", "a share of the steps"),
        "adam.weight_decay": ("O", "weight_decay"),
        "l2": ("O", "weight_decay"),
        "max_grad_norm": ("TAL", "grad_clip"),
        "max_norm": ("O", "grad_clip"),
        "bf16": ("TALO", "precision"),
        "fp16": ("TAL", "precision"),
        "pure_bf16": ("L", "precision", "weights stay in fp32 while they are trained"),
        "dtype": ("T", "precision"),
        "torch_dtype": ("T", "precision"),
        "ds.param_dtype": ("O", "precision"),
        "param_dtype": ("O", "precision"),
        "sample_packing": ("A", "packing"),
        "neat_packing": ("L", "packing"),
        "padding_free": ("T", "packing"),
        "packing_samples": ("O", "packing"),
        "ds.packing_samples": ("O", "packing"),
        "train_on_inputs": ("A", "loss_on"),
        "train_on_prompt": ("L", "loss_on"),
        "mask_history": ("L", "loss_on"),
        "assistant_only_loss": ("T", "loss_on"),
        "completion_only_loss": ("T", "loss_on"),
        "roles_to_train": ("A", "loss_on"),
        # adapters
        "use_peft": ("T", "lora"),
        "use_lora": ("T", "lora"),
        "adapter": ("A", "lora"),
        "finetuning_type": ("L", "lora"),
        "peft_config": ("T", "lora"),
        "lora_config": ("T", "lora"),
        "lora_r": ("TA", "lora.rank"),
        "lora_rank": ("LO", "lora.rank"),
        "ds.lora.rank": ("O", "lora.rank"),
        "lora_alpha": ("TALO", "lora.alpha"),
        "ds.lora.alpha": ("O", "lora.alpha"),
        "lora_dropout": ("TALO", "lora.dropout"),
        "ds.lora.dropout": ("O", "lora.dropout"),
        "lora_target_modules": ("TA", "lora.targets"),
        "lora_target": ("L", "lora.targets"),
        "lora_target_linear": ("A", "lora.targets"),
        "target_modules": ("TO", "lora.targets"),
        "ds.lora.target_modules": ("O", "lora.targets"),
        # reinforcement learning
        "reward_model": ("L", "reward"),
        "reward_model_path": ("T", "reward"),
        "reward_pretrain": ("O", "reward"),
        "reward.model_name_or_path": ("O", "reward"),
        "reward_funcs": ("TA", "reward", "rewards.py:function"),
        "sft_model_path": ("T", "model"),
        "kl_coef": ("T", "beta.coef"),
        "init_kl_coef": ("TO", "beta.coef"),
        "algo.kl.init_coef": ("O", "beta.coef"),
        "kl_target": ("O", "beta.target"),
        "algo.kl.target": ("O", "beta.target"),
        "ppo_target": ("L", "beta.target"),
        "target_kl": ("T", "beta.target"),
        "kl_horizon": ("O", "beta.horizon"),
        "algo.kl.horizon": ("O", "beta.horizon"),
        "kl_estimator": ("TO", "beta.estimator"),
        "algo.kl.estimator": ("O", "beta.estimator"),
        "cliprange": ("T", "clip"),
        "epsilon": ("TA", "clip"),
        "eps_clip": ("O", "clip"),
        "actor.eps_clip": ("O", "clip"),
        "cliprange_value": ("T", "value_clip"),
        "critic.value_clip": ("O", "value_clip"),
        "vf_coef": ("T", "value_coef"),
        "entropy_coef": ("TA", "entropy"),
        "actor.entropy_coef": ("O", "entropy"),
        "num_ppo_epochs": ("T", "ppo_epochs"),
        "num_iterations": ("TA", "ppo_epochs"),
        "num_mini_batches": ("T", "minibatches"),
        "whiten_advantages": ("T", "whiten"),
        "normalize_advantages": ("T", "whiten"),
        "reward_clip_range": ("TO", "reward_clip", "one number: the largest absolute score"),
        "reward.clip_range": ("O", "reward_clip", "one number: the largest absolute score"),
        "cliprange_reward": ("T", "reward_clip"),
        "num_generations": ("TA", "group"),
        "rloo_k": ("T", "group"),
        "n_samples_per_prompt": ("O", "group"),
        "rollout.n_samples_per_prompt": ("O", "group"),
        "lambd": ("O", "lam"),
        "algo.advantage.lambd": ("O", "lam"),
        "algo.advantage.gamma": ("O", "gamma"),
        "advantage_estimator": ("O", "baseline"),
        "algo.advantage.estimator": ("O", "baseline"),
        "freezing_actor_steps": ("O", "critic.warmup"),
        "critic.freezing_steps": ("O", "critic.warmup"),
        "stop_sequences": ("T", "stop"),
        "stop_token": ("T", "stop", "the end of turn is stopped at without it"),
        # preferences and rewards
        "loss_type": ("T", "loss"),
        "pref_loss": ("L", "loss"),
        "dpo_loss_type": ("A", "loss"),
        "model.loss_type": ("O", "loss"),
        "pref_beta": ("L", "beta"),
        "rl_beta": ("A", "beta"),
        "dpo_beta": ("A", "beta"),
        "model.beta": ("O", "beta"),
        "dpo_label_smoothing": ("AL", "label_smoothing"),
        "model.label_smoothing": ("O", "label_smoothing"),
        "ref_model": ("TL", "reference"),
        "ref_pretrain": ("O", "reference"),
        "ref.model_name_or_path": ("O", "reference"),
        "center_rewards_coefficient": ("TA", "center", "the scores are centred once, after training"),
        "num_return_sequences": ("T", "k"),
    }.items()
}

# reason: names that need nothing here
_UNNEEDED: dict[str, tuple[str, str]] = {
    _METHOD: ("ALT", "rl stage do_train do_eval do_predict task_type lora_task_type trainer_cls num_labels"),
    _TEXT: (
        "TALO",
        "dataset_kwargs dataset_format type ds_type data.apply_chat_template apply_chat_template data.prompt_key"
        " prompt_key data.chosen_key chosen_key data.rejected_key rejected_key data.output_key output_key"
        " data.input_template input_template field_messages field_instruction field_input field_output"
        " message_property_mappings chat_template_kwargs conversation data.multiturn multiturn tool_format data_files",
    ),
    "rows are tokenised once and kept on disk by content": (
        "ALT",
        "dataset_prepared_path tokenized_path overwrite_cache preprocessing_num_workers preprocessing_batch_size"
        " dataset_num_proc dataset_processes skip_prepare_dataset dataset_keep_in_memory cache_dir streaming"
        " dataset_streaming buffer_size data_shared_file_system remove_unused_columns num_workers",
    ),
    "duplicates are always found and counted": ("A", "dataset_exact_deduplication"),
    "the order is drawn from seed": (
        "TALO",
        "shuffle_dataset shuffle_merged_datasets disable_shuffling group_by_length sampling_strategy"
        " train_sampling_strategy length_column_name curriculum_sampling mix_strategy full_determinism"
        " train.full_determinism_enable",
    ),
    "max_length bounds prompt and answer together": ("TAO", "max_prompt_length max_prompt_len prompt_max_len"),
    "every step is recorded": (
        "TALO",
        "logging_steps logging_first_step logging_strategy logging_dir plot_loss logger.logging_steps log_level"
        " include_num_input_tokens_seen include_tokens_per_second log_completions num_completions_to_print"
        " log_unique_prompts compute_accuracy disable_tqdm debug",
    ),
    "out names the run": ("TA", "run_name project exp_name tracker_project_name"),
    _RESUME: ("TALO", "resume_from_checkpoint auto_resume_from_checkpoints load_checkpoint ckpt.load_enable"),
    "--fresh removes an earlier run": ("LT", "overwrite_output_dir"),
    "weights are always written as safetensors": ("TAO", "save_safetensors save_hf_ckpt ckpt.save_hf bf16_full_eval"),
    "a model's own tokenizer and special tokens are used": (
        "ALTO",
        "special_tokens tokens add_tokens add_special_tokens tokenizer_type tokenizer_config tokenizer_name"
        " tokenizer_name_or_path use_fast_tokenizer pad_token eos_token eot_tokens model_type type_of_model"
        " pad_to_multiple_of pad_to_sequence_len resize_vocab data.disable_fast_tokenizer disable_fast_tokenizer"
        " train_on_eos train_on_eot fix_untrained_tokens skip_special_tokens default_system default_system_message",
    ),
    "every evaluation covers all of eval_data": (
        "TAL",
        "eval_packing eval_sample_packing prediction_loss_only eval_on_start eval_accumulation_steps do_causal_lm_eval"
        " eval_on_each_dataset batch_eval_metrics eval_delay",
    ),
    "attention is the kernel that torch has for the device, checked against the model's own": (
        "TALO",
        "attn_implementation flash_attention flash_attn sdp_attention xformers_attention eager_attention"
        " flex_attention use_flash_attention_2 ds.attn_implementation shift_attn",
    ),
    "dropout of the model is off where log-probs are compared": ("T", "disable_dropout"),
    "one process drives the device": (
        "TALO",
        "deepspeed world_size local_rank ddp device_map device accelerator_config parallelism_config low_cpu_mem_usage"
        " zero_stage max_memory gpu_memory_limit num_processes use_cpu no_cuda tensor_parallel_size"
        " context_parallel_size sequence_parallel_degree use_ms",
    ),
    "memory is bounded by micro_batch_tokens": (
        "TALO",
        "torch_empty_cache_steps gc_steps use_cache use_kv_cache dataloader_drop_last use_liger_kernel"
        " use_liger_loss enable_liger_kernel ds.use_liger_kernel use_unsloth torch_compile",
    ),
    "reference log-probs are always computed once, before training": (
        "TA",
        "precompute_ref_log_probs precompute_ref_batch_size",
    ),
    "the reward is clipped by reward_clip and advantages are whitened, never rewards": (
        "TLO",
        "whiten_rewards scale_rewards ppo_whiten_rewards ppo_score_norm reward.normalize_enable normalize_reward",
    ),
    "the first and last model are in the run folder": ("T", "save_only_model save_on_each_node save_first_step"),
    "nothing but the hub is reached; copy the run folder to publish it": (
        "TAL",
        "push_to_hub push_dataset_to_hub hf_use_auth_token hf_hub_token ms_hub_token om_hub_token",
    ),
    "no code of a model is run": ("TAL", "trust_remote_code"),
    "samples are drawn by sampling, temperature 0 takes the likeliest token": ("TL", "do_sample num_beams"),
}

# what instead: names for what this version does not do
_MISSING: dict[str, tuple[str, str]] = {
    "AdamW trains in fp32": (
        "TALO",
        "optim optimizer optim_args optim_target_modules use_adam_mini use_muon lr_scheduler_kwargs min_lr_ratio"
        " cosine_min_lr_ratio cosine_constant_lr_ratio embedding_lr loraplus_lr_ratio lr_groups",
    ),
    "lora: {rank: 32} and a smaller micro_batch_tokens save memory": (
        "TALO",
        "gradient_checkpointing gradient_checkpointing_kwargs activation_checkpointing activation_offloading"
        " disable_gradient_checkpointing use_reentrant_gc unsloth_gc use_unsloth_gc"
        " model.gradient_checkpointing_enable actor.gradient_checkpointing_enable adam_offload ds.adam_offload"
        " fsdp fsdp_config layer_offloading ref.offload",
    ),
    "weights stay in fp32 or bf16; lora: {rank: 32} saves most of the memory": (
        "TALO",
        "load_in_4bit load_in_8bit quantization_bit quantization_method ds.load_in_4bit bnb_4bit_quant_type"
        " bnb_4bit_compute_dtype use_bnb_nested_quant double_quantization gptq fp8 quantization qat",
    ),
    "plain LoRA is what there is": (
        "TAL",
        "use_rslora use_dora peft_use_dora peft_use_rslora pissa_init loftq_config lora_modules_to_save"
        " modules_to_save additional_target relora freeze_trainable_layers unfrozen_parameters lora_fan_in_fan_out",
    ),
    "the last model is kept; the curves in the report say where to stop": (
        "TAL",
        "load_best_model_at_end metric_for_best_model greater_is_better early_stopping_patience"
        " early_stopping_steps ckpt.best_metric_key",
    ),
    "weight_decay and the model's dropout regularise": ("TAL", "neftune_noise_alpha noisy_embedding_alpha"),
    "label_smoothing belongs to preference losses": ("T", "label_smoothing_factor"),
    "use one of the losses here, sigmoid first": (
        "TALO",
        "simpo_gamma orpo_alpha cpo_alpha kto_desirable_weight kto_undesirable_weight desirable_weight"
        " undesirable_weight pref_ftx rpo_alpha model.nll_loss_coef ld_alpha loss_weights f_divergence_type",
    ),
    "the reference stays what it is": ("TA", "sync_ref_model ref_model_mixup_alpha ref_model_sync_steps"),
    "the answer is judged as it is": ("TO", "mask_truncated_completions overlong_buffer_len dynamic_filtering_enable"),
    "shorten the file": ("LO", "max_samples data.max_samples dataset_shard_num"),
}

UNNEEDED = {name: Foreign(owners, note=why) for why, (owners, names) in _UNNEEDED.items() for name in names.split()}
MISSING = {name: Foreign(owners, note=why) for why, (owners, names) in _MISSING.items() for name in names.split()}

# how a name begins, whose it is, and why nothing is needed here
FAMILIES: dict[str, tuple[str, str]] = {
    "adam": ("TAO", "AdamW has betas 0.9 and 0.999"),
    "dataloader_": ("TAL", "rows are read from a tokenised file on disk"),
    "data.dataloader_": ("O", "rows are read from a tokenised file on disk"),
    "ddp_": ("TAL", "one process drives the device"),
    "fsdp": ("TAL", "one process drives the device"),
    "ds.": ("O", "one process drives the device"),
    "hub_": ("TAL", "nothing is uploaded; copy the run folder to publish it"),
    "wandb": ("AO", "track: wandb turns it on, its own environment variables set the rest"),
    "logger.": ("O", "track turns a tracker on, its own environment variables set the rest"),
    "mlflow_": ("A", "track: mlflow turns it on, its own environment variables set the rest"),
    "trackio_": ("TA", "track: trackio turns it on, its own environment variables set the rest"),
    "comet_": ("A", "there is no such tracker here"),
    "swanlab_": ("L", "there is no such tracker here"),
    "use_swanlab": ("L", "there is no such tracker here"),
    "vllm": ("TAO", "the model answers by itself"),
    "sglang": ("L", "the model answers by itself"),
    "infer_": ("L", "the model answers by itself"),
    "transformers_": ("T", "the model answers by itself"),
    "ray_": ("AL", "one process drives the device"),
    "torch_compile": ("TAL", "kernels are chosen and checked when the model is loaded"),
    "flash_": ("AL", "attention is the kernel that torch has for the device"),
    "liger": ("TAL", "kernels are chosen and checked when the model is loaded"),
    "bnb_": ("TA", "weights stay in fp32 or bf16"),
    "galore": ("L", "AdamW is the optimizer"),
    "apollo": ("L", "AdamW is the optimizer"),
    "badam": ("L", "AdamW is the optimizer"),
    "muon": ("O", "AdamW is the optimizer"),
    "export_": ("L", "a run folder is a model folder as it stands"),
    "image_": ("AL", "models of text only"),
    "video_": ("L", "models of text only"),
    "profiler_": ("AL", "the report shows where the time went"),
    "dataset_shard": ("A", "shorten the file"),
    "ckpt.": ("O", "a run keeps its checkpoints in its folder"),
    "plugins": ("A", "there are no plugins"),
}

# what experience with larger systems asks for, and this version does not have
LATER: dict[str, str] = {
    "quantize": "weights stay in fp32 or bf16; lora: {rank: 32} saves most of the memory",
    "offload": "lora: {rank: 32} and a smaller micro_batch_tokens save memory",
    "stop_if": "beta: {target: 6} holds the KL by itself",
    "epoch_kl_stop": "fewer ppo_epochs or a smaller clip keep a step short",
    "kl_in": "the KL is always a part of the reward; reward_form says where",
    "reward_scale": "reward_clip bounds the score, and a function rewards.py:score may scale it",
    "ptx": "a smaller learning_rate or a larger beta keeps more of the start model",
    "ema": "the last weights are the model",
    "best": "the last model is kept; compare it with `posttrain eval`",
    "length_normalize": "loss: ipo is the least drawn to long answers",
    "nll": "finetune on the chosen answers with posttrain sft first",
    "simpo": "loss: sigmoid is the plain choice",
    "name": "out names the run",
}
