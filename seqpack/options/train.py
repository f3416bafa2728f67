"""The options of ``seqpack train``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from seqpack.core.errors import ConfigError
from seqpack.options.field import option

DEFAULT_EPOCHS = 1.0
DEFAULT_STEP_ROWS = 8
DEFAULT_WARMUP_FRACTION = 0.03
DEFAULT_LR_PRETRAINED = 1e-5
DEFAULT_LR_RANDOM = 1e-3
MEGATRON_MATRICES = {
    "linear_qkv": ("q_proj", "k_proj", "v_proj"),
    "linear_proj": ("o_proj",),
    "linear_fc1": ("gate_proj", "up_proj"),
    "linear_fc2": ("down_proj",),
}
"""Megatron's names for matrices of a layer, some of which it keeps as one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainDataOptions:
    """Data"""

    data_path: list[str] = option(
        help="Data sets to train on: prefixes that preprocess or pack wrote, or that name files of MindSpeed-LLM, "
        "Megatron or Pai; each with a weight before it to mix them by shares.",
        flags=("--data-path",),
        positional=True,
        metavar="[WEIGHT] PREFIX...",
    )
    plan: list[Path] = option(
        [],
        "Plans that pack --plan-only made of these sets: their samples are read as packs, without a second copy of the "
        "tokens. Say --neat-pack or --no-neat-pack with it.",
        metavar="FILE...",
    )
    repack_epochs: bool = option(
        False,
        "With --plan: samples of equal length change places in every epoch, so that they get other neighbours; the "
        "number of packs stays.",
        negation=False,
    )
    stage: Literal["sft", "pretrain"] | None = option(None, "What the data are for; given here, it is checked.")
    split: str | None = option(
        None, "Shares of training, validation and test, such as 98,2,0, by place in the set. Default: all training."
    )
    neat_pack: bool | None = option(
        None, "Samples in a pack do not see each other. Read from the data set; given here, it is checked against it."
    )
    reset_position_ids: bool | None = option(None, "Means the same as --neat-pack.")
    reset_attention_mask: bool | None = option(None, "Means the same as --neat-pack.")
    eod_mask_loss: bool | None = option(
        None, "Nothing is predicted after the end of a document. Always so here: the flag is accepted."
    )
    padded_samples: bool = option(
        False, "Fill every epoch up to a multiple of --global-batch-size with its first rows.", negation=False
    )
    shuffle: bool = option(True, "Take the rows in a new random order each epoch.")
    pad_to: Literal["none", "longest", "seq-length"] = option(
        "none", "Pad the rows of an unpacked set, to compare with packing: within a micro-batch, or to --seq-length."
    )
    seq_length: int | None = option(
        None,
        "Length of the rows of pretraining text, and what --pad-to seq-length pads to; for packs it is checked.",
        min=2,
    )
    seed: int = option(1234, "Seed of the row order and of random weights.", min=0)
    is_instruction_dataset: bool = option(False, "The same as --stage sft.", hidden=True, negation=False)
    prompt_type: str | None = option(None, "The template of the data; given here, it is checked.", hidden=True)
    pack: bool = option(False, "The data are packed; given here, it is checked.", hidden=True, negation=False)

    def __post_init__(self) -> None:
        if not self.is_instruction_dataset:
            return
        if self.stage == "pretrain":
            raise ConfigError(
                "SP208", "--is-instruction-dataset and --stage pretrain contradict each other", help="give one of them"
            )
        object.__setattr__(self, "stage", "sft")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOptions:
    """Model"""

    model: str = option(
        help="Hugging Face directory or Megatron checkpoint, split in any way (nothing is downloaded); or tiny:qwen2, "
        "tiny:llama, ... to try things out.",
        metavar="DIRECTORY",
        flags=("--model", "--load"),
    )
    random_init: bool = option(False, "Start from random weights: only config.json of the model is used.")
    tokenizer: Path | None = option(
        None,
        "Directory of the tokenizer to save with the model, if not the model's own; and of the config, for a Megatron "
        "checkpoint that has no hf/config.json.",
        flags=("--tokenizer", "--tokenizer-name-or-path"),
    )
    dtype: Literal["float32", "bfloat16", "float64", "float16"] = option(
        "float32",
        "Number format of weights and activations; bfloat16 keeps float32 master weights; float16 is refused.",
    )
    bf16: bool = option(False, "The same as --dtype bfloat16.", hidden=True, negation=False)

    def __post_init__(self) -> None:
        if self.dtype == "float16":
            raise ConfigError(
                "SP208",
                "--dtype float16: gradients below 6e-8 would become 0, and the loss is not scaled to prevent it",
                help="choose bfloat16, which has the range of float32, or float32",
            )
        if not self.bf16:
            return
        if self.dtype == "float64":
            raise ConfigError("SP208", "--bf16 and --dtype float64 contradict each other", help="give one of them")
        object.__setattr__(self, "dtype", "bfloat16")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions:
    """Training"""

    train_iters: int | None = option(None, "Number of optimizer steps; instead of --epochs.", min=1)
    train_samples: int | None = option(None, "Rows to train on; instead of --train-iters.", min=1)
    epochs: float | None = option(None, "Passes over the rows, fractions allowed. Default: 1.")
    global_batch_size: int | None = option(None, "Rows in each optimizer step. Default: 8.", min=1)
    global_batch_tokens: int | None = option(
        None,
        "Tokens in each optimizer step, about: the same for packed and unpacked rows. Instead of --global-batch-size.",
        min=1,
    )
    micro_batch_size: int = option(1, "Rows that go through the model at once.", min=1)
    loss_reduction: Literal["token", "sample", "pack"] = option(
        "token", "What counts the same in the loss of a step: every trained token, every sample or every pack."
    )
    lr: float | None = option(None, "Peak learning rate. Default: 1e-5, or 1e-3 with random weights.")
    min_lr: float = option(0.0, "Learning rate at the end of the decay.", min=0)
    lr_decay_style: Literal["cosine", "linear", "wsd", "constant"] = option(
        "cosine", "Course of the rate after warm-up; wsd stays at the peak until its decay begins."
    )
    lr_wsd_decay_iters: int | None = option(None, "Steps of decay under wsd. Default: a tenth of all.", min=1)
    lr_warmup_fraction: float | None = option(None, "Part of all steps spent on warm-up. Default: 0.03.", min=0, max=1)
    lr_decay_iters: int | None = option(None, "The rate decays over the whole run.", hidden=True, min=1)
    lr_warmup_iters: int | None = option(None, "Steps spent on warm-up; instead of --lr-warmup-fraction.", min=0)
    weight_decay: float = option(0.1, "AdamW weight decay; norms and biases are left out.", min=0)
    adam_beta1: float = option(0.9, "AdamW decay rate of the mean gradient.", min=0, max=1)
    adam_beta2: float = option(0.95, "AdamW decay rate of the mean squared gradient.", min=0, max=1)
    adam_eps: float = option(1e-8, "AdamW epsilon.", min=0)
    recompute_granularity: Literal["none", "selective", "full"] = option(
        "none",
        "Save memory by computing layers again in the backward pass: whole, or without their attention and products.",
    )
    compile: bool = option(
        False, "Have torch compile the layers: the first step takes a minute longer, the others less.", negation=False
    )
    clip_grad: float = option(1.0, "Largest norm of all gradients together; 0 does not clip.", min=0)

    def __post_init__(self) -> None:
        self._check_duration()
        self._check_batch()
        self._check_rate()

    @property
    def step_rows(self) -> int:
        """Rows in each optimizer step, where ``--global-batch-tokens`` does not say it."""
        return self.global_batch_size or DEFAULT_STEP_ROWS

    def with_step_rows(self, mean_tokens: float) -> TrainOptions:
        """``--global-batch-tokens`` as rows that have ``mean_tokens``: whole micro-batches, and at least one."""
        if self.global_batch_tokens is None:
            return self
        micro_batches = max(1, round(self.global_batch_tokens / mean_tokens / self.micro_batch_size))
        return replace(self, global_batch_size=micro_batches * self.micro_batch_size, global_batch_tokens=None)

    def peak_lr(self, *, random_weights: bool) -> float:
        """``--lr``, or the default for a model that starts from weights of this kind."""
        if self.lr is not None:
            return self.lr
        # Small on purpose: a pretrained model forgets at rates that random weights need to learn anything.
        return max(self.min_lr, DEFAULT_LR_RANDOM if random_weights else DEFAULT_LR_PRETRAINED)

    def warmup_steps(self, num_steps: int) -> int:
        """Warm-up steps of a run of ``num_steps``."""
        if self.lr_warmup_iters is not None:
            return min(self.lr_warmup_iters, num_steps)
        fraction = DEFAULT_WARMUP_FRACTION if self.lr_warmup_fraction is None else self.lr_warmup_fraction
        return int(fraction * num_steps)

    def wsd_decay_steps(self, num_steps: int) -> int:
        """Steps of decay at the end of a run of ``num_steps`` under wsd."""
        return self.lr_wsd_decay_iters or max(1, num_steps // 10)

    def _check_duration(self) -> None:
        durations = {"--train-iters": self.train_iters, "--train-samples": self.train_samples, "--epochs": self.epochs}
        given = [flag for flag, value in durations.items() if value is not None]
        if len(given) > 1:
            raise ConfigError("SP208", f"{given[0]} and {given[1]} were both given", help="give one of them")
        if self.epochs is not None and not 0 < self.epochs < float("inf"):
            raise ConfigError("SP208", f"--epochs is {self.epochs:g}", help="give a number above 0")
        if self.train_iters is not None and self.train_iters < 1:
            raise ConfigError("SP208", f"--train-iters is {self.train_iters}", help="give at least 1")

    def _check_batch(self) -> None:
        if self.global_batch_tokens is not None:
            if self.global_batch_size is not None:
                raise ConfigError(
                    "SP208", "--global-batch-size and --global-batch-tokens were both given", help="give one of them"
                )
            return
        if self.micro_batch_size < 1 or self.step_rows % self.micro_batch_size:
            raise ConfigError(
                "SP208",
                f"--global-batch-size {self.step_rows} is not a multiple of --micro-batch-size {self.micro_batch_size}",
                help="change one of them",
            )

    def _check_rate(self) -> None:
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise ConfigError("SP208", f"--lr is {self.lr:g}", help="give a number above 0, such as 1e-5")
        if self.lr is not None and self.min_lr > self.lr:
            raise ConfigError("SP208", f"--min-lr {self.min_lr:g} is above --lr {self.lr:g}", help="lower --min-lr")
        if self.lr_warmup_fraction is not None and self.lr_warmup_iters is not None:
            raise ConfigError(
                "SP208", "--lr-warmup-fraction and --lr-warmup-iters were both given", help="give one of them"
            )
        if self.lr_decay_iters not in (None, self.train_iters):
            raise ConfigError(
                "SP208",
                f"--lr-decay-iters {self.lr_decay_iters}: the rate decays over the whole run, to its last step",
                help="leave it out; --lr-decay-style wsd and --lr-wsd-decay-iters place the decay at the end",
            )
        if self.lr_wsd_decay_iters is not None and self.lr_decay_style != "wsd":
            raise ConfigError(
                "SP208",
                f"--lr-wsd-decay-iters is for --lr-decay-style wsd, not {self.lr_decay_style}",
                help="leave it out, or choose wsd",
            )
        for flag, beta in (("--adam-beta1", self.adam_beta1), ("--adam-beta2", self.adam_beta2)):
            if not 0 <= beta < 1:
                raise ConfigError("SP208", f"{flag} is {beta:g}", help="give a number from 0 up to, not including, 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraOptions:
    """LoRA"""

    lora_r: int | None = option(
        None, "Train small matrices of this rank beside the frozen ones; writes SAVE/adapter, which peft loads.", min=1
    )
    lora_alpha: float | None = option(None, "Scale of the adapters: alpha / r. Default: twice the rank.", min=0)
    lora_dropout: float = option(0.0, "Share of the adapters' inputs that is dropped.", min=0, max=1)
    lora_target_modules: list[str] = option(
        [], "Matrices to adapt, such as q_proj v_proj. Default: all of the layers.", metavar="NAME..."
    )

    def __post_init__(self) -> None:
        names = [name for given in self.lora_target_modules for name in MEGATRON_MATRICES.get(given, (given,))]
        object.__setattr__(self, "lora_target_modules", names)
        if self.lora_r is None and (self.lora_alpha is not None or self.lora_dropout or self.lora_target_modules):
            raise ConfigError("SP208", "LoRA options were given without --lora-r", help="add --lora-r 16")


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelOptions:
    """Processes"""

    nproc: int | None = option(
        None, "Processes to start on this machine; torchrun may start them instead.", flags=("--nproc",), min=1
    )
    dp_replicate: int = option(1, "Groups of processes that each hold the whole model in pieces.", min=1)
    context_parallel_size: int = option(
        1,
        "Processes that share a row, each with some of its tokens: for rows that are too long for one.",
        flags=("--cp", "--context-parallel-size"),
        min=1,
    )
    tensor_model_parallel_size: int = option(
        1,
        "Processes that share every matrix, and between them the tokens (sequence parallelism).",
        flags=("--tp", "--tensor-model-parallel-size"),
        min=1,
    )
    pipeline_model_parallel_size: int = option(
        1,
        "Processes that each have some of the layers and hand activations on.",
        flags=("--pp", "--pipeline-model-parallel-size"),
        min=1,
    )
    num_layers_per_virtual_pipeline_stage: int | None = option(
        None, "Layers in a stage, so that each process of the pipeline has several: interleaved.", min=1
    )
    num_layer_list: str | None = option(
        None, "Layers of each stage, such as 8,9,9,6. Default: so that stages cost the same."
    )
    pipeline_schedule: Literal["1f1b", "zero-bubble"] = option(
        "1f1b", "Order of work in a pipeline; zero-bubble takes gradients of weights apart, to fill its gaps."
    )
    expert_model_parallel_size: int = option(
        1,
        "Data parallel processes that share the experts of a layer.",
        flags=("--ep", "--expert-model-parallel-size"),
        min=1,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """Run"""

    save: Path = option(
        help="Directory to write metrics.jsonl and model/ to (see --save-format).",
        flags=("--save", "--out"),
        short="-o",
    )
    overwrite: bool = option(False, "Replace the run that is already in --save.")
    device: Literal["auto", "cpu", "cuda", "npu"] = option(
        "auto",
        "Where to compute; auto takes an Ascend NPU if torch_npu and one are there, else the CPU. cuda and npu are "
        "written and have not been run yet.",
    )
    attention: Literal["auto", "flash", "varlen", "flash-attn", "npu", "reference"] = option(
        "auto",
        "Attention code: flash is for CPUs, varlen and flash-attn for CUDA, npu for Ascend; reference builds the whole "
        "mask, slowly, to compare with.",
    )
    save_interval: int | None = option(
        None, "Steps between two checkpoints to go on from, SAVE/step-N. Ctrl-C always writes one.", min=1
    )
    eval_interval: int | None = option(
        None, "Steps between two evaluations on the validation part of --split; one more comes at the end.", min=1
    )
    eval_iters: int | None = option(
        None, "Batches of --global-batch-size rows in an evaluation; 0 evaluates nothing. Default: all.", min=0
    )
    save_format: Literal["hf", "mcore", "native"] = option(
        "hf",
        "What the run leaves in the end: a Hugging Face directory (SAVE/model); a Megatron checkpoint split as the run "
        "is (SAVE/mcore); or the last checkpoint to go on from and no more (SAVE/step-N).",
    )
    async_save: bool = option(True, "Write checkpoints while training goes on, from a copy in memory.")
    keep_last: int | None = option(2, "Checkpoints that are kept, the newest ones; 0 keeps all.", min=0)
    resume: Path | None = option(
        None,
        "Go on from the newest checkpoint in this directory, with the options of its resolved.yaml.",
        metavar="SAVE",
        run_folder=True,
    )
    metrics: list[str] = option(
        [],
        "Where metrics go besides SAVE/metrics.jsonl: metric sinks of plugins, such as tensorboard.",
        metavar="NAME...",
    )
    log_interval: int = option(10, "Steps between two lines of output; metrics.jsonl has every step.", min=1)
    num_threads: int | None = option(None, "CPU threads. Default: what torch chooses.", min=1)
    dry_run: bool = option(False, "Check everything, show what would run, and stop.")

    def __post_init__(self) -> None:
        if self.resume is not None and self.resume.absolute() != self.save.absolute():
            raise ConfigError(
                "SP208",
                f"--resume {self.resume} and --save {self.save} are two directories",
                help="give --resume alone: the run goes on where it is",
            )
