"""Flags with which Megatron-LM and MindSpeed-LLM train, so that their command lines run as they are.

Each is checked against the model, has no effect here and a reason, or is refused with the way out.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from seqpack.options.check import refuse_known
from seqpack.options.field import flag_names, option


def _value(reason: str) -> Any:
    return option(None, reason, hidden=True)


def _switch(reason: str) -> Any:
    return option(False, reason, hidden=True, negation=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchitectureOptions:
    """Architecture, as a check of config.json"""

    num_layers: int | None = _value("num_hidden_layers")
    noop_layers: str | None = _value("layers that do nothing, counted by --num-layers")
    hidden_size: int | None = _value("hidden_size")
    ffn_hidden_size: int | None = _value("intermediate_size")
    num_attention_heads: int | None = _value("num_attention_heads")
    group_query_attention: bool = _switch("num_key_value_heads")
    num_query_groups: int | None = _value("num_key_value_heads")
    kv_channels: int | None = _value("head_dim")
    normalization: str | None = _value("the norm of its layers")
    norm_epsilon: float | None = _value("rms_norm_eps")
    rotary_base: float | None = _value("rope_theta")
    position_embedding_type: str | None = _value("rotary positions")
    swiglu: bool = _switch("hidden_act")
    add_qkv_bias: bool = _switch("biases of q, k and v")
    qk_layernorm: bool = _switch("norms of q and k")
    untie_embeddings_and_output_weights: bool = _switch("tie_word_embeddings")
    vocab_size: int | None = _value("vocab_size")
    padded_vocab_size: int | None = _value("vocab_size")
    num_experts: int | None = _value("num_experts")
    moe_router_topk: int | None = _value("num_experts_per_tok")
    moe_ffn_hidden_size: int | None = option(
        None, "moe_intermediate_size", flags=("--moe-ffn-hidden-size", "--moe-intermediate-size"), hidden=True
    )
    moe_aux_loss_coeff: float | None = _value("router_aux_loss_coef")

    def given(self) -> dict[str, Any]:
        """Flag -> value, of those that were given; layers that do nothing are none of the model's."""
        values = ((flag_names(field)[0], getattr(self, field.name)) for field in dataclasses.fields(self))
        found = {flag: value for flag, value in values if value not in (None, False)}
        if (idle := found.pop("--noop-layers", None)) and self.num_layers is not None:
            found["--num-layers"] = self.num_layers - len(idle.split(","))
        return found


_KERNELS = "kernels are chosen by device, --attention and the model"
_CONFIG = "config.json of the model says it"
_MEMORY = "it moves memory, and changes no result"
_TRAFFIC = "exchanges between processes are chosen by the parallel layout"
_TOKENIZED = "the data are tokenized already, and their manifest says how"
_UNPADDED = "rows are never padded to a common length"
_CHECKPOINTS = "--model starts a run, --resume goes on with all of its state; both say what is missing"
_ALWAYS = "it is always so"


@dataclass(frozen=True, kw_only=True, slots=True)
class MegatronOptions:
    """Accepted, without effect"""

    use_mcore_models: bool = _switch(_KERNELS)
    transformer_impl: str | None = _value(_KERNELS)
    shape_order: str | None = _value(_KERNELS)
    use_flash_attn: bool = _switch(_KERNELS)
    use_rotary_position_embeddings: bool = _switch(_KERNELS)
    use_fused_rotary_pos_emb: bool = _switch(_KERNELS)
    use_fused_swiglu: bool = _switch(_KERNELS)
    use_fused_rmsnorm: bool = _switch(_KERNELS)
    use_fused_mhc: bool = _switch(_KERNELS)
    use_fused_lightning_indexer: bool = _switch(_KERNELS)
    use_fused_lightning_indexer_loss: bool = _switch(_KERNELS)
    use_fused_moe_token_permute_and_unpermute: bool = _switch(_KERNELS)
    use_sparse_flash_attn: bool = _switch(_KERNELS)
    use_triton_gdn: bool = _switch(_KERNELS)
    no_use_sparse_c8_indexer: bool = _switch(_KERNELS)
    no_masked_softmax_fusion: bool = _switch(_KERNELS)
    no_bias_swiglu_fusion: bool = _switch(_KERNELS)
    no_rope_fusion: bool = _switch(_KERNELS)
    no_gradient_accumulation_fusion: bool = _switch(_KERNELS)
    gemm_gradient_accumulation_fusion: bool = _switch(_KERNELS)
    no_enable_linear_qkv: bool = _switch(_KERNELS)
    lora_fusion: bool = _switch(_KERNELS)
    mla_fa_without_pad: bool = _switch(_KERNELS)
    mla_mm_split: bool = _switch(_KERNELS)
    enable_mla_absorb: bool = _switch(_KERNELS)
    apply_rope_no_in_complex: bool = _switch(_KERNELS)
    mamba_chunk_size: int | None = _value(_KERNELS)
    moe_grouped_gemm: bool = _switch(_KERNELS)
    moe_permute_fusion: bool = _switch(_KERNELS)
    npu_deterministic: bool = _switch(_KERNELS)
    attention_softmax_in_fp32: bool = _switch(_ALWAYS)
    topk_softmax_in_fp32: bool = _switch(_ALWAYS)
    router_gating_in_fp32: bool = _switch(_ALWAYS)
    calculate_per_token_loss: bool = _switch("--loss-reduction token, the default, is that")

    reuse_fp32_param: bool = _switch(_MEMORY)
    swap_optimizer: bool = _switch(_MEMORY)
    swap_attention: bool = _switch(_MEMORY)
    o2_optimizer: bool = _switch(_MEMORY)
    o2_gradient: bool = _switch(_MEMORY)
    manual_gc: bool = _switch(_MEMORY)
    manual_gc_interval: int | None = _value(_MEMORY)
    loss_compute_mode: str | None = _value(_MEMORY)
    loss_chunk_size: int | None = _value(_MEMORY)
    moe_zero_memory: str | None = _value(_MEMORY)
    mtp_mem_efficient_logits: bool = _switch(_MEMORY)
    recompute_method: str | None = _value("--recompute-granularity alone says what is computed again, in every layer")
    recompute_num_layers: int | None = _value(
        "--recompute-granularity alone says what is computed again, in every layer"
    )
    recompute_activation_function: bool = _switch(
        "--recompute-granularity alone says what is computed again, in every layer"
    )

    use_distributed_optimizer: bool = _switch("data-parallel processes always hold the optimizer in pieces")
    overlap_grad_reduce: bool = _switch(_TRAFFIC)
    overlap_param_gather: bool = _switch(_TRAFFIC)
    distributed_backend: str | None = _value("the device says it: gloo, nccl or hccl")
    disable_gloo_group: bool = _switch(_TRAFFIC)
    sequence_parallel: bool = _switch("--tensor-model-parallel-size always shares the sequence too")
    distributed_timeout_minutes: int | None = _value("a rank that stands still for half a minute ends the run")
    use_ascend_coc: bool = _switch(_TRAFFIC)
    coc_fused_kernel: bool = _switch(_TRAFFIC)
    use_ascend_mc2: bool = _switch(_TRAFFIC)
    moe_token_dispatcher_type: str | None = _value(_TRAFFIC)
    moe_permutation_async_comm: bool = _switch(_TRAFFIC)
    moe_alltoall_overlap_comm: bool = _switch(_TRAFFIC)
    moe_fb_overlap: bool = _switch(_TRAFFIC)
    moe_tp_extend_ep: bool = _switch(_TRAFFIC)

    tokenizer_type: str | None = _value(_TOKENIZED)
    tokenizer_not_use_fast: bool = _switch(_TOKENIZED)
    tokenizer_model: str | None = _value(_TOKENIZED)
    tokenizer_padding_side: str | None = _value(_TOKENIZED)
    handler_name: str | None = option(None, _TOKENIZED, flags=("--handler-name", "--handler"), hidden=True)
    enable_thinking: str | None = _value(_TOKENIZED)
    workers: int | None = _value(_TOKENIZED)
    num_workers: int | None = _value("a thread reads packs ahead of the step")
    dataloader_type: str | None = _value("--shuffle says the order of rows")
    no_pad_to_seq_lengths: bool = _switch(_UNPADDED)
    variable_seq_lengths: bool = _switch(_UNPADDED)
    pad_to_multiple_of: int | None = _value(_UNPADDED)
    max_batch_size: int | None = _value(_UNPADDED)

    finetune: bool = _switch(_CHECKPOINTS)
    no_load_optim: bool = _switch(_CHECKPOINTS)
    no_load_rng: bool = _switch(_CHECKPOINTS)
    no_save_optim: bool = _switch(_CHECKPOINTS)
    no_save_rng: bool = _switch(_CHECKPOINTS)
    ckpt_format: str | None = _value(_CHECKPOINTS)
    exit_on_missing_checkpoint: bool = _switch(_CHECKPOINTS)
    enable_hf2mg_convert: bool = _switch("--model reads Hugging Face weights, SAVE/model is written in that format")
    enable_mg2hf_convert: bool = _switch("--model reads Hugging Face weights, SAVE/model is written in that format")
    model_type_hf: str | None = _value(_CONFIG)
    hf_cfg_dir: str | None = _value(_CONFIG)
    lora_ckpt_filter: bool = _switch("a LoRA run saves its adapters alone")
    log_throughput: bool = _switch("every step's tokens per second are in metrics.jsonl")
    initial_loss_scale: float | None = _value("bfloat16 needs no loss scale")
    init_method_std: float | None = _value(_CONFIG)

    spec: list[str] = option([], _CONFIG, hidden=True)
    disable_bias_linear: bool = _switch(_CONFIG)
    add_dense_bias: bool = _switch(_CONFIG)
    add_output_layer_bias: bool = _switch(_CONFIG)
    max_position_embeddings: int | None = _value(_CONFIG)
    make_vocab_size_divisible_by: int | None = _value(_CONFIG)
    rotary_percent: float | None = _value(_CONFIG)
    partial_rotary_factor: float | None = _value(_CONFIG)
    rope_scaling_type: str | None = _value(_CONFIG)
    rope_scaling_factor: float | None = _value(_CONFIG)
    rope_scaling_mscale: float | None = _value(_CONFIG)
    rope_scaling_mscale_all_dim: float | None = _value(_CONFIG)
    rope_scaling_original_max_position_embeddings: int | None = _value(_CONFIG)
    original_seq_len: int | None = _value(_CONFIG)
    rope_factor: float | None = _value(_CONFIG)
    compress_rope_theta: float | None = _value(_CONFIG)
    beta_fast: float | None = _value(_CONFIG)
    beta_slow: float | None = _value(_CONFIG)
    longrope_freqs_type: str | None = _value(_CONFIG)
    long_factor: str | None = _value(_CONFIG)
    short_factor: str | None = _value(_CONFIG)
    long_mscale: float | None = _value(_CONFIG)
    short_mscale: float | None = _value(_CONFIG)
    add_rmsnorm_offset: bool = _switch(_CONFIG)
    rmsnorm_weight_in_fp32: bool = _switch(_CONFIG)
    init_norm_weight_in_fp32: bool = _switch(_CONFIG)
    input_embeds_norm: bool = _switch(_CONFIG)
    post_norm: bool = _switch(_CONFIG)
    gelu_tanh: bool = _switch(_CONFIG)
    query_pre_attn_scalar: float | None = _value(_CONFIG)
    output_logit_softcapping: float | None = _value(_CONFIG)
    interleave_sliding_window: int | None = _value(_CONFIG)
    sliding_window_size: int | None = _value(_CONFIG)
    multi_latent_attention: bool = _switch(_CONFIG)
    q_lora_rank: int | None = _value(_CONFIG)
    kv_lora_rank: int | None = _value(_CONFIG)
    o_lora_rank: int | None = _value(_CONFIG)
    qk_head_dim: int | None = _value(_CONFIG)
    qk_pos_emb_head_dim: int | None = _value(_CONFIG)
    v_head_dim: int | None = _value(_CONFIG)
    kv_compress: bool = _switch(_CONFIG)
    compress_ratios: list[int] = option([], _CONFIG, hidden=True)
    o_groups: int | None = _value(_CONFIG)
    enable_mhc: bool = _switch(_CONFIG)
    hc_mult: int | None = _value(_CONFIG)
    n_hash_layers: int | None = _value(_CONFIG)
    enable_dsa_indexer: bool = _switch(_CONFIG)
    index_n_heads: int | None = _value(_CONFIG)
    index_head_dim: int | None = _value(_CONFIG)
    index_topk: int | None = _value(_CONFIG)
    index_topk_freq: int | None = _value(_CONFIG)
    index_skip_topk_offset: int | None = _value(_CONFIG)
    linear_num_key_heads: int | None = _value(_CONFIG)
    linear_num_value_heads: int | None = _value(_CONFIG)
    linear_key_head_dim: int | None = _value(_CONFIG)
    linear_value_head_dim: int | None = _value(_CONFIG)
    full_attention_interval: int | None = _value(_CONFIG)
    mamba_d_conv: int | None = _value(_CONFIG)
    mamba_expand: int | None = _value(_CONFIG)
    moe_layer_freq: int | None = _value(_CONFIG)
    first_k_dense_replace: int | None = _value(_CONFIG)
    n_shared_experts: int | None = _value(_CONFIG)
    moe_shared_expert_intermediate_size: int | None = _value(_CONFIG)
    shared_expert_gate: bool = _switch(_CONFIG)
    norm_topk_prob: bool = _switch(_CONFIG)
    moe_router_load_balancing_type: str | None = _value(_CONFIG)
    moe_router_score_function: str | None = _value(_CONFIG)
    moe_router_enable_expert_bias: bool = _switch(_CONFIG)
    moe_router_num_groups: int | None = _value(_CONFIG)
    moe_router_group_topk: int | None = _value(_CONFIG)
    moe_router_topk_scaling_factor: float | None = _value(_CONFIG)
    moe_router_pre_softmax: bool = _switch(_CONFIG)
    moe_router_dtype: str | None = _value(_CONFIG)
    seq_aux: bool = _switch(_CONFIG)

    def notes(self) -> list[str]:
        """A line for each reason, with the flags that have no effect because of it."""
        by_reason = defaultdict(list)
        for field in dataclasses.fields(self):
            if getattr(self, field.name) not in (None, False, []):
                by_reason[field.metadata["help"]].append(flag_names(field)[0])
        return [f"no effect, {reason}: {' '.join(flags)}" for reason, flags in by_reason.items()]


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedTrainOptions:
    """Known, but not supported"""

    fp16: bool = _switch("float16 loses small gradients | train with --dtype bfloat16 or float32")
    is_pairwise_dataset: bool = _switch("preferences are not trained on | train on chosen answers, as an SFT set")
    dpo_loss_type: str | None = _value("preferences are not trained on | train on chosen answers, as an SFT set")
    attention_dropout: float = option(0.0, "packed attention computes no dropout | give 0", hidden=True)
    hidden_dropout: float = option(0.0, "the models have no such dropout | give 0", hidden=True)
    moe_input_jitter_eps: float = option(0.0, "routers get no noise | leave it out", hidden=True)
    mtp_num_layers: int = option(0, "only the next token is predicted | leave it out", hidden=True)
    mtp_loss_scaling_factor: float | None = _value("only the next token is predicted | leave it out")
    index_share_for_mtp_iteration: bool = _switch("only the next token is predicted | leave it out")
    indexer_loss_coeff: float | None = _value("sparse indexers have no loss of their own | leave it out")
    expert_tensor_parallel_size: int = option(
        1, "experts are not cut inside | leave it out; --expert-model-parallel-size spreads them", hidden=True
    )

    def __post_init__(self) -> None:
        refuse_known(self)
