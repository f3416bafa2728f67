"""The real ``GPTModel`` of megatron-core, on the CPU, with our files: its logits are those of transformers.

Needs ``pip install -e ".[megatron]"``; skipped where it is not installed.
"""

from __future__ import annotations

import importlib.util
import warnings
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from seqpack.convert.convert import convert_weights
from tests.distributed import run_ranks

from .conftest import make_model, options, same_bytes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("megatron") is None or importlib.util.find_spec("megatron.core") is None,
        reason="megatron-core is not installed",
    ),
]

LENGTH = 12
IDS = (torch.arange(2 * LENGTH) * 7 % 61).reshape(2, LENGTH)

# fmt: off
SAME_NAMES = (
    "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "kv_channels",
    "add_bias_linear", "add_qkv_bias", "normalization", "qk_layernorm", "attention_dropout", "hidden_dropout",
    "moe_layer_freq", "moe_ffn_hidden_size", "moe_router_topk", "moe_router_pre_softmax",
    "tensor_model_parallel_size", "expert_model_parallel_size", "params_dtype",
)
# fmt: on
"""Arguments of TransformerConfig that have the same name in a checkpoint's args."""

DENSE = [("llama", {}), ("qwen2", {"tie_word_embeddings": True}), ("qwen3", {}), ("mistral", {"sliding_window": None})]
EXPERTS = [("qwen3_moe", {"norm_topk_prob": True}), ("mixtral", {"sliding_window": None})]


@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize(("family", "sizes"), DENSE, ids=lambda value: value if isinstance(value, str) else "")
def test_dense(tmp_path: Path, family: str, sizes: dict[str, Any], tp: int) -> None:
    assert_agrees(tmp_path, family, sizes, tp=tp, make_vocab_size_divisible_by=4)


@pytest.mark.parametrize("ep", [1, 2])
@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize(("family", "sizes"), EXPERTS, ids=lambda value: value if isinstance(value, str) else "")
def test_experts(tmp_path: Path, family: str, sizes: dict[str, Any], tp: int, ep: int) -> None:
    assert_agrees(tmp_path, family, sizes, tp=tp, ep=ep)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_split_of_a_split(tmp_path: Path, family: str) -> None:
    """By way of a checkpoint split otherwise, so that one wrong split does not undo another."""
    source = make_model(tmp_path / "hf", family, num_hidden_layers=3)
    convert_weights(options(source, "mcore", tmp_path / "first", tp=4, pp=3))
    convert_weights(options(tmp_path / "first", "mcore", tmp_path / "mcore", tp=2))
    assert_close(source, tmp_path / "mcore", tp=2)


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize(
    ("family", "sizes"),
    [*DENSE, *EXPERTS, ("qwen3_moe", {"norm_topk_prob": True, "mlp_only_layers": [1]})],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_distributed_layout(tmp_path: Path, family: str, sizes: dict[str, Any], tp: int) -> None:
    """Its own loader takes it as strictly as it can, split over ranks as it likes."""
    source = make_model(tmp_path / "hf", family, **sizes)
    convert_weights(options(source, "mcore", tmp_path / "mcore", tp=2, ckpt_format="torch_dist"))
    assert_close(source, tmp_path / "mcore", tp)


@pytest.mark.parametrize("ep", [1, 2])
def test_what_it_saves_is_read(tmp_path: Path, ep: int) -> None:
    """Chunks cut as ranks hold them, written by Megatron-core itself."""
    family, sizes = ("qwen3_moe", {"norm_topk_prob": True}) if ep > 1 else ("qwen2", {"tie_word_embeddings": True})
    source = make_model(tmp_path / "hf", family, **sizes)
    convert_weights(options(source, "mcore", tmp_path / "mcore", tp=2, ckpt_format="torch_dist"))
    (tmp_path / "saved").mkdir()
    run_ranks(2 * ep, megatron_logits, str(tmp_path / "mcore"), 2, ep, str(tmp_path / "saved"))
    convert_weights(options(tmp_path / "saved", "hf", tmp_path / "back", hf_dir=source))
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(same_bytes(before[name], after[name]) for name in before)


def assert_agrees(tmp_path: Path, family: str, sizes: dict[str, Any], **split: int) -> None:
    source = make_model(tmp_path / "hf", family, **sizes)
    convert_weights(options(source, "mcore", tmp_path / "mcore", **split))
    assert_close(source, tmp_path / "mcore", split["tp"], split.get("ep", 1))


def assert_close(source: Path, checkpoint: Path, tp: int, ep: int = 1) -> None:
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)(IDS).logits
    # weights of a normal distribution make large logits; the bar is relative to them
    scale = expected.abs().max().clamp(min=1)
    for logits in run_ranks(tp * ep, megatron_logits, str(checkpoint), tp, ep):
        difference = (torch.tensor(logits)[..., :61] - expected).abs().max() / scale
        assert difference < 1e-4, f"largest difference {difference:.2e}"


def megatron_logits(ranks: Any, checkpoint: str, tp: int, ep: int, save: str = "") -> Any:
    """Logits ``[samples, tokens, vocabulary]`` of a checkpoint, by one rank of several; ``save``: it is saved there."""
    warnings.simplefilter("ignore")
    import megatron.core.tensor_parallel.random as tensor_parallel_random
    import megatron.core.transformer.moe.moe_utils as moe_utils
    from megatron.core import parallel_state
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec, get_gpt_layer_local_spec

    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel(tp, 1, expert_model_parallel_size=ep, expert_tensor_parallel_size=tp)
    tensor, expert = parallel_state.get_tensor_model_parallel_rank(), parallel_state.get_expert_model_parallel_rank()
    folder = f"mp_rank_{tensor:02d}" + (f"_{expert:03d}" if ep > 1 else "")
    iteration = Path(checkpoint) / "iter_0000001"
    is_dist = (iteration / "common.pt").exists()
    with torch.serialization.safe_globals([Namespace]):
        file = iteration / "common.pt" if is_dist else iteration / folder / "model_optim_rng.pt"
        state = torch.load(file, weights_only=True)
    args = state["args"]
    config = transformer_config(args)
    if isinstance(args.moe_layer_freq, list):
        spec = get_gpt_decoder_block_spec(config, False, normalization=args.normalization)
    else:
        spec = get_gpt_layer_local_spec(args.num_experts, False, args.qk_layernorm, normalization=args.normalization)
    # the only random numbers are those of dropout, which is off, and the tracker of their states wants a GPU
    # without Transformer Engine, 0.16.1 leaves this name undefined
    moe_utils.te_general_gemm = None
    # and buffers are moved to the current GPU
    torch.cuda.current_device = lambda: "cpu"  # type: ignore[assignment, return-value]
    torch.cuda.synchronize = lambda *device: None
    tensor_parallel_random.CudaRNGStatesTracker.fork = lambda *names: nullcontext()
    model = GPTModel(
        config,
        spec,
        vocab_size=args.padded_vocab_size,
        max_sequence_length=args.max_position_embeddings,
        parallel_output=False,
        share_embeddings_and_output_weights=not args.untie_embeddings_and_output_weights,
        position_embedding_type=args.position_embedding_type,
        rotary_percent=args.rotary_percent,
        rotary_base=args.rotary_base,
    ).eval()
    weights = load_dist(model, iteration, state.get("content_metadata")) if is_dist else state["model"]
    if save:
        save_dist(model, Path(save), state)
    report = model.load_state_dict(weights, strict=False)
    assert not report.unexpected_keys
    assert all(key.endswith("_extra_state") for key in report.missing_keys), report.missing_keys
    positions = torch.arange(LENGTH).expand(2, LENGTH)
    mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)[None, None]
    with torch.no_grad():
        return model(IDS, positions, mask).float().tolist()


def load_dist(model: Any, iteration: Path, content: dict[str, Any] | None) -> Any:
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.validation import StrictHandling
    from megatron.core.safe_globals import register_safe_globals

    wanted = {"model": model.sharded_state_dict(metadata=content)}
    register_safe_globals()
    # what the default lets pass is only what this model has no use for; nothing may be missing
    loaded = dist_checkpointing.load(wanted, str(iteration), strict=StrictHandling.RAISE_UNEXPECTED)
    return loaded["model"]


def save_dist(model: Any, folder: Path, state: dict[str, Any]) -> None:
    from megatron.core import dist_checkpointing

    (folder / "iter_0000005").mkdir(exist_ok=True)
    (folder / "latest_checkpointed_iteration.txt").write_text("5")
    sharded = {"args": state["args"], "iteration": 5, "model": model.sharded_state_dict()}
    dist_checkpointing.save(sharded, str(folder / "iter_0000005"))


def transformer_config(args: Namespace) -> Any:
    """What Megatron-LM makes of these args with ``--use-checkpoint-args``."""
    from megatron.core.transformer import TransformerConfig

    return TransformerConfig(
        **{name: getattr(args, name) for name in SAME_NAMES},
        num_moe_experts=args.num_experts,
        expert_tensor_parallel_size=args.expert_tensor_parallel_size,
        gated_linear_unit=args.swiglu,
        activation_func=torch.nn.functional.silu,
        layernorm_epsilon=args.norm_epsilon,
        moe_token_dispatcher_type="allgather",
        moe_router_load_balancing_type="none",
        use_cpu_initialization=True,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        persist_layer_norm=False,
        sequence_parallel=False,
    )
