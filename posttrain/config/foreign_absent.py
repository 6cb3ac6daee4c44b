"""Options of other libraries that have no setting here: not needed, not in this version, and why."""

from __future__ import annotations

from posttrain.config.foreign_names import Foreign

# reason: names that need nothing here
_UNNEEDED: dict[str, tuple[str, str]] = {
    "the command says the method (sft, reward, ppo, dpo)": (
        "ALT",
        "rl stage do_train do_eval do_predict task_type lora_task_type trainer_cls num_labels",
    ),
    "the format of the rows is recognised from their keys and values": (
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
    "AdamW is the optimizer": ("TALO", "optim optimizer"),
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
    "the same command goes on where it stopped": (
        "TALO",
        "resume_from_checkpoint auto_resume_from_checkpoints load_checkpoint ckpt.load_enable",
    ),
    "--fresh removes an earlier run": ("LT", "overwrite_output_dir"),
    "weights are always written as safetensors": ("TAO", "save_safetensors save_hf_ckpt ckpt.save_hf bf16_full_eval"),
    "a model's own configuration, tokenizer and special tokens are used": (
        "ALTO",
        "special_tokens tokens add_tokens add_special_tokens tokenizer_type tokenizer_config tokenizer_name"
        " tokenizer_name_or_path use_fast_tokenizer pad_token eos_token eot_tokens model_type type_of_model"
        " resize_vocab resize_token_embeddings_to_32x model_revision revision_of_model"
        " data.disable_fast_tokenizer disable_fast_tokenizer"
        " train_on_eos train_on_eot fix_untrained_tokens skip_special_tokens default_system default_system_message",
    ),
    "sequences are packed, not padded to a length": ("AT", "pad_to_sequence_len pad_to_multiple_of"),
    "kernels are the device's own": ("AT", "tf32 fp16_full_eval"),
    "settings and data are always checked": ("A", "strict loss_watchdog_threshold loss_watchdog_patience"),
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
    "one learning rate for all weights, falling to zero": (
        "TALO",
        "optim_args optim_target_modules use_adam_mini use_muon lr_scheduler_kwargs min_lr_ratio cosine_min_lr_ratio"
        " cosine_constant_lr_ratio embedding_lr embedding_lr_scale loraplus_lr_ratio loraplus_lr_embedding lr_groups",
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
