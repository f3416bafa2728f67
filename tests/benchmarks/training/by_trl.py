"""One run of TRL's ``SFTTrainer`` for ``bench_training.py``: a line of JSON for every optimizer step.

Run by an interpreter that has trl; seqpack is not needed. The rows are token numbers already, so that both programs
train on the same tokens.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

warnings.filterwarnings("ignore")
logging.set_verbosity_error()


class Counted(SFTTrainer):
    """Counts the tokens that reach the model: all, and those that are not padding."""

    tokens, padding = 0, 0

    def compute_loss(self, model, inputs, *arguments, **keywords):
        real = int(inputs["attention_mask"].sum()) if "attention_mask" in inputs else inputs["input_ids"].numel()
        self.tokens += real
        self.padding += inputs["input_ids"].numel() - real
        return super().compute_loss(model, inputs, *arguments, **keywords)


class Clock(TrainerCallback):
    def __init__(self) -> None:
        self.trainer: Counted | None = None

    def on_step_end(self, args, state, control, **kwargs) -> None:
        seen = {"tokens": self.trainer.tokens, "padding": self.trainer.padding}
        print(json.dumps({"cpu": time.process_time(), "wall": time.perf_counter(), **seen}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", required=True, help="JSON Lines with input_ids and labels")
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--seq-length", type=int, required=True)
    parser.add_argument("--micro-batch", type=int, required=True)
    parser.add_argument("--accumulate", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--recompute", action="store_true")
    options = parser.parse_args()

    torch.set_num_threads(1)
    config = SFTConfig(
        output_dir=options.output,
        max_length=options.seq_length,
        packing=options.packing,
        per_device_train_batch_size=options.micro_batch,
        gradient_accumulation_steps=options.accumulate,
        max_steps=options.steps,
        gradient_checkpointing=options.recompute,
        bf16=False,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        weight_decay=0.1,
        adam_beta2=0.95,
        logging_steps=10_000,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    clock = Clock()
    clock.trainer = Counted(
        model=AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32),
        args=config,
        train_dataset=Dataset.from_json(options.rows),
        processing_class=AutoTokenizer.from_pretrained(options.tokenizer),
        callbacks=[clock],
    )
    clock.trainer.train()


if __name__ == "__main__":
    main()
