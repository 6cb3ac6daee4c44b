"""Options of other libraries that have no setting here: not needed, not in this version, and why."""

from __future__ import annotations

from posttrain.config.foreign_names import Foreign

# reason: names that need nothing here
_UNNEEDED: dict[str, tuple[str, str]] = {
    "the command says the method (sft, classify, reward, ppo, dpo)": (
        "ALT",
        "rl stage do_train do_eval do_predict task_type lora_task_type trainer_cls",
    ),
    "classify takes the classes from the labels of the rows": ("A", "num_labels"),
    "the format is recognised from the rows": ("A", "type ds_type field conversation roles"),
    "the format of the rows is recognised from their keys and values": (
        "TALO",
        "dataset_kwargs dataset_format data.apply_chat_template apply_chat_template data.prompt_key"
        " prompt_key data.chosen_key chosen_key data.rejected_key rejected_key data.output_key output_key"
        " data.input_template input_template field_messages field_instruction field_input field_output"
        " message_property_mappings chat_template_kwargs data.multiturn multiturn tool_format data_files",
    ),
    "rows are tokenised once and kept on disk by content": (
        "ALT",
        "dataset_prepared_path tokenized_path overwrite_cache preprocessing_num_workers preprocessing_batch_size"
        " dataset_num_proc dataset_processes skip_prepare_dataset dataset_keep_in_memory cache_dir streaming"
        " dataset_streaming buffer_size data_shared_file_system remove_unused_columns num_workers",
    ),
    "one process holds the model, nothing is sharded": ("O", "zero_stage ds.zero_stage zpg"),
    "the end of turn always ends an answer": ("T", "stop_token stop_token_id"),
    "duplicates are always found and counted": ("A", "dataset_exact_deduplication"),
    "the order is drawn from seed": (
        "TALO",
        "shuffle_dataset shuffle_merged_datasets disable_shuffling group_by_length sampling_strategy"
        " train_sampling_strategy length_column_name curriculum_sampling mix_strategy",
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
        "special_tokens tokenizer_type tokenizer_config tokenizer_name"
        " tokenizer_name_or_path use_fast_tokenizer pad_token eos_token eot_tokens model_type type_of_model"
        " resize_token_embeddings_to_32x model_revision revision_of_model"
        " data.disable_fast_tokenizer disable_fast_tokenizer"
        " train_on_eos train_on_eot fix_untrained_tokens skip_special_tokens default_system default_system_message",
    ),
    "sequences are packed, not padded to a length": ("AT", "pad_to_sequence_len pad_to_multiple_of"),
    "kernels are the device's own": ("AT", "tf32 fp16_full_eval"),
    "settings and data are always checked": ("A", "strict loss_watchdog_threshold loss_watchdog_patience"),
    "every evaluation covers all of eval_data": (
        "TAL",
        "eval_packing eval_sample_packing prediction_loss_only eval_on_start eval_accumulation_steps"
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
        " max_memory gpu_memory_limit num_processes use_cpu no_cuda tensor_parallel_size"
        " context_parallel_size sequence_parallel_degree use_ms",
    ),
    "activation_checkpointing is without reentrance": (
        "TALO",
        "gradient_checkpointing_kwargs activation_checkpointing_kwargs use_reentrant_gc"
        " actor.gradient_checkpointing_reentrant model.gradient_checkpointing_reentrant",
    ),
    "memory is bounded by micro_batch_tokens": (
        "TALO",
        "torch_empty_cache_steps gc_steps use_cache use_kv_cache dataloader_drop_last use_liger_kernel"
        " use_liger_loss enable_liger_kernel ds.use_liger_kernel use_unsloth",
    ),
    "reference log-probs are always computed once, before training": (
        "TA",
        "precompute_ref_log_probs precompute_ref_batch_size",
    ),
    "reward_clip and reward_scale bound the reward, and advantages are whitened, never rewards": (
        "TLO",
        "whiten_rewards scale_rewards ppo_whiten_rewards",
    ),
    "the first and last model are in the run folder": ("T", "save_only_model save_on_each_node save_first_step"),
    "nothing but the hub is reached; copy the run folder to publish it": (
        "TAL",
        "push_to_hub push_dataset_to_hub hf_use_auth_token hf_hub_token ms_hub_token om_hub_token",
    ),
    "no code of a model is run": ("TAL", "trust_remote_code"),
    "the best value of a loss is its lowest, of every other measure its highest": ("TAL", "greater_is_better"),
    "samples are drawn by sampling, temperature 0 takes the likeliest token": ("TL", "do_sample num_beams"),
}

# what instead: names for what this version does not do
_MISSING: dict[str, tuple[str, str]] = {
    "one learning rate for all weights, falling to zero": (
        "TALO",
        "optim_args optim_target_modules use_adam_mini use_muon lr_scheduler_kwargs min_lr_ratio cosine_min_lr_ratio"
        " cosine_constant_lr_ratio embedding_lr embedding_lr_scale loraplus_lr_ratio loraplus_lr_embedding lr_groups",
    ),
    "activation_checkpointing, lora: {rank: 32} and a smaller micro_batch_tokens save memory": (
        "TALO",
        "activation_offloading unsloth_gc use_unsloth_gc fsdp fsdp_config layer_offloading",
    ),
    "quantize: 4bit is NF4 with its scales quantized too, 8bit rounds each row": (
        "TAL",
        "quantization_method bnb_4bit_quant_type bnb_4bit_compute_dtype use_bnb_nested_quant double_quantization gptq"
        " fp8 quantization qat",
    ),
    "LoRA with rank and alpha patterns, rslora or dora, is what there is": (
        "TAL",
        "pissa_init loftq_config lora_modules_to_save"
        " modules_to_save additional_target relora freeze_trainable_layers unfrozen_parameters lora_fan_in_fan_out",
    ),
    "a run goes to its end, and best keeps the best model on its way": (
        "AL",
        "early_stopping_patience early_stopping_steps",
    ),
    "weight_decay and the model's dropout regularise": ("TAL", "neftune_noise_alpha noisy_embedding_alpha"),
    "label_smoothing belongs to preference losses": ("T", "label_smoothing_factor"),
    "use one of the losses here, sigmoid first": (
        "TALO",
        "cpo_alpha ld_alpha loss_weights f_divergence_type",
    ),
    "the reference stays what it is": ("TA", "sync_ref_model ref_model_mixup_alpha ref_model_sync_steps"),
    "the answer is judged as it is": ("TO", "mask_truncated_completions overlong_buffer_len dynamic_filtering_enable"),
    "the model answers by itself, without penalties": (
        "TAL",
        "use_vllm repetition_penalty length_penalty generation_kwargs",
    ),
    "posttrain merge RUN --out FOLDER makes full weights of an adapter": ("A", "merge_lora"),
    "adapters sit on linear layers": ("TA", "lora_target_parameters"),
    "shorten the file": ("LO", "max_samples data.max_samples dataset_shard_num"),
}

# The rest of their lists: nothing here corresponds, and nothing near in spelling is meant.
_REST: dict[str, str] = {
    "T": (
        "average_tokens_across_devices cache_implementation cast_lm_head_to_fp32 "
        "discopop_tau ds3_gather_for_generation enable_jit_checkpoint entropy_coef_delta entropy_coef_max "
        "entropy_coef_min entropy_target epsilon_high eval_do_concat_batches eval_use_gather_object "
        "f_alpha_divergence_coef generation_kwargs ignore_bias_buffers ignore_data_skip importance_sampling_level "
        "include_for_metrics log_completions_hub_repo log_level_replica log_multimodal log_on_each_node "
        "logging_nan_inf_filter max_tool_calling_iterations model_init_kwargs multi_objective_aggregation "
        "num_generations_eval off_policy_mask_threshold packing_strategy restore_callback_states_from_checkpoint "
        "router_aux_loss_coef sapo_temperature_neg sapo_temperature_pos skip_memory_metrics steps_per_generation "
        "teacher_model_init_kwargs teacher_model_name_or_path teacher_model_revision top_entropy_quantile "
        "use_adaptive_entropy use_bias_correction_kl use_transformers_continuous_batching use_transformers_paged "
        "use_weighting vespo_k_neg vespo_k_pos vespo_lambda_neg vespo_lambda_pos"
    ),
    "A": (
        "added_tokens_overrides async_prefetch axolotl_config_path base_model_config "
        "batch_flattening bench_dataset bench_split chunked_cross_entropy chunked_cross_entropy_num_chunks "
        "cls_model_config deepcompile dion_lr dion_momentum dion_rank_fraction dion_rank_multiple_of "
        "do_bench_eval dp_replicate_size dp_shard_size dpo_generate_during_eval dpo_loss_weights dpo_norm_loss "
        "dpo_padding_free dpo_use_liger_kernel dpo_use_logits_to_keep dpo_use_weighting dynamic_checkpoint "
        "eaft_alpha eaft_k embeddings_skip_upcast eval_sequence_len "
        "eval_table_size experimental_skip_move_to_device experts_implementation flex_attn_compile_kwargs "
        "fp32_norm_classes fp32_norms fp8_config fp8_enable_fsdp_float8_all_gather freeze_mm_modules "
        "fused_attn_kernel gc_collect_steps gemma4_hybrid_attn_impl generate_samples generation_do_sample "
        "generation_max_new_tokens generation_prompt_ratio generation_temperature generation_top_k "
        "generation_top_p gradio_max_new_tokens gradio_server_name gradio_server_port gradio_share "
        "gradio_temperature gradio_title heads_k_stride hf_mlflow_log_artifacts include_tkps "
        "is_falcon_derived_model is_llama_derived_model is_mistral_derived_model is_preprocess "
        "is_qwen_derived_model jagged_restart_anneal_steps jagged_restart_steps jagged_restart_warmup_steps "
        "large_head_attention lisa_layers_attribute lisa_n_layers lisa_step_interval llama4_linearized_experts "
        "loftq_bits lora_embedding_kernel lora_mlp_kernel lora_o_kernel lora_on_cpu "
        "lora_qkv_kernel lr_div_factor lr_quadratic_warmup max_packed_sequence_len "
        "mean_resizing_embeddings merge_method min_sample_len model_quantization_config "
        "model_quantization_config_kwargs multipack_real_batches num_dataset_shards_to_save "
        "num_generation_samples otel_metrics_host otel_metrics_port overrides_of_model_config "
        "overrides_of_model_kwargs peft_autocast_adapter_dtype peft_ensure_weight_tying peft_init_lora_weights "
        "peft_layer_replication peft_layers_pattern peft_layers_to_transform peft_trainable_token_indices "
        "ple_cpu_offload pose_max_context_len pose_num_chunks pose_split_on_token_ids prefetch_depth "
        "preprocess_iterable pretrain_multipack_attn pretrain_multipack_buffer_size "
        "pretraining_sample_concatenation process_reward_model processor_kwargs processor_type "
        "qgalore_cos_threshold qgalore_gamma_proj qgalore_proj_bits qgalore_proj_group_size qgalore_proj_quant "
        "qgalore_proj_type qgalore_queue_size qgalore_rank qgalore_scale qgalore_update_proj_gap "
        "qlora_sharded_model_loading quantize_moe_experts recompute_layer_types reinit_weights relora_cpu_offload "
        "relora_prune_method relora_prune_ratio replay_buffer_size replay_recompute_logps reroll_max_groups "
        "reroll_start_fraction resources_per_worker reward_num_workers ring_attn_func rollout_func rope_scaling "
        "s2_attention sage_attention sample_packing_bin_size sample_packing_eff_est sample_packing_group_size "
        "sample_packing_mp_start_method sample_packing_sequentially save_sliding_window scaling_softmax "
        "scaling_softmax_bias scaling_softmax_factor sdpa_varlen selective_checkpointing shrink_embeddings "
        "shuffle_before_merging_datasets skip_zero_advantage_batches streaming_min_groups "
        "streaming_multipack_buffer_size streaming_partial_batch tiled_mlp tiled_mlp_num_shards "
        "tiled_mlp_use_original_mlp tokenizer_legacy tokenizer_save_jinja_files tokenizer_use_fast "
        "tokenizer_use_mistral_common torchdistx_path total_num_tokens total_supervised_tokens use_comet "
        "use_data_producer use_eaft use_kernels use_onebitllms use_otel_metrics use_pose use_ray"
    ),
    "L": (
        "adapter_folder asft_alpha audio_sampling_rate block_diag_attn compute_dtype "
        "crop_to_patches enable_thinking enable_torch_profiler eval_num_beams fp8_backend freeze_extra_modules "
        "freeze_language_model freeze_multi_modal_projector freeze_trainable_modules freeze_vision_tower "
        "hyper_parallel_args ignore_pad_token_for_loss include_effective_tokens_per_second init_special_tokens "
        "kt_expert_checkpoint_path kt_lora_expert_intermediate_size kt_lora_expert_num kt_use_lora_experts "
        "kt_weight_path length_penalty media_dir mixture_of_depths "
        "module_dropout moe_aux_loss_coef new_special_tokens_config offload_folder oft_block_size oft_rank "
        "oft_target pissa_convert pissa_iter pref_bco_weight preserve_thinking print_param_status profile_modules "
        "quantization_device_map quantization_type ref_model_adapters ref_model_quantization_bit "
        "reward_model_adapters reward_model_quantization_bit reward_model_type split_special_tokens "
        "train_from_scratch upcast_layernorm upcast_lmhead_output use_apollo use_asft_loss use_audio_in_video "
        "use_badam use_dft_loss use_eaft_loss use_galore use_hyper_parallel use_kt use_llama_pro use_mca "
        "use_v1_kernels"
    ),
    "O": (
        "actor.aux_loss_coef actor.dual_clip actor.eps_clip_low_high actor.freeze_visual_encoder "
        "actor.loss_agg_mode actor.num_gpus_per_node actor.num_nodes "
        "actor.policy_loss_type algo.advantage.is_correction_gating algo.advantage.is_correction_level "
        "algo.advantage.is_correction_mode algo.advantage.is_correction_threshold algo.advantage.no_std_norm "
        "algo.dynamic_filtering_range algo.kl.unbiased_gradient critic.num_gpus_per_node "
        "critic.num_nodes critic.save_value_network data.image_key data.label_key data.max_images_per_prompt "
        "eval.temperature model.aux_loss_coef model.compute_fp32_loss_enable "
        "model.ipo_enable model.margin_loss_enable "
        "model.pretrain_mode_enable ref.num_gpus_per_node ref.num_nodes reward.num_gpus_per_node reward.num_nodes "
        "reward.overlong_penalty_factor reward.stop_properly_penalty_coef "
        "rollout.max_tokens_per_gpu rollout.top_p rollout.vllm_generate_batch_size train.agent_func_path "
        "train.async_enable train.async_queue_size train.colocate_actor_ref train.colocate_all "
        "train.colocate_critic_reward train.dynamic_batch_enable "
        "train.partial_rollout_enable"
    ),
}

UNNEEDED = {name: Foreign(owners, note=why) for why, (owners, names) in _UNNEEDED.items() for name in names.split()}
_REST_TOLD = {
    name: Foreign(owner, note="nothing here corresponds") for owner, names in _REST.items() for name in names.split()
}
MISSING = _REST_TOLD | {
    name: Foreign(owners, note=why) for why, (owners, names) in _MISSING.items() for name in names.split()
}

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
    "torch_compile": ("TAL", "compile: true is inductor in its default mode, for every number of tokens"),
    "flash_": ("AL", "attention is the kernel that torch has for the device"),
    "liger": ("TAL", "kernels are chosen and checked when the model is loaded"),
    "bnb_": ("TA", "quantize: 4bit is NF4 with its scales quantized too"),
    "galore": ("L", "AdamW is the optimizer"),
    "apollo": ("L", "AdamW is the optimizer"),
    "badam": ("L", "AdamW is the optimizer"),
    "muon": ("O", "AdamW is the optimizer"),
    "export_": ("L", "a run folder is a model folder as it stands; posttrain merge makes full weights of an adapter"),
    "image_": ("AL", "models of text only"),
    "video_": ("L", "models of text only"),
    "profiler_": ("AL", "the time of every step is recorded"),
    "dataset_shard": ("A", "shorten the file"),
    "ckpt.": ("O", "a run keeps its checkpoints in its folder"),
    "plugins": ("A", "there are no plugins"),
}

# what experience with larger systems asks for, and this version does not have
LATER: dict[str, str] = {
    "name": "out names the run",
}
