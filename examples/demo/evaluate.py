"""Ask a trained model the held-out questions of one task, and count the answers that are right to the last character.

python evaluate.py demo-out/packed/model --data demo-out/data/heldout.jsonl --task city
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

EASIEST_TASK = "city"
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Exact match on held-out rows.")
    parser.add_argument("model", type=Path, help="folder with the model and its tokenizer")
    parser.add_argument("--data", type=Path, required=True, help="a .jsonl file in Alpaca columns")
    parser.add_argument("--task", default=EASIEST_TASK, help="only rows of this task")
    parser.add_argument("--max-rows", type=int, default=100)
    parser.add_argument("--max-new-tokens", type=int, default=24)
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    with arguments.data.open(encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if row["task"] == arguments.task][: arguments.max_rows]
    answers = answer(arguments.model, [prompt(row) for row in rows], arguments.max_new_tokens)
    matches = [text == row["output"] for text, row in zip(answers, rows, strict=True)]
    share = sum(matches) / len(rows) if rows else 0.0
    print(json.dumps({"task": arguments.task, "rows": len(rows), "correct": sum(matches), "exact_match": share}))


def prompt(row: dict[str, Any]) -> str:
    """What the model was trained to go on from: the qwen template up to the reply."""
    user = "\n".join(part for part in (row["instruction"], row["input"]) if part)
    turns = [f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n" for asked, _ in row.get("history", ())]
    replies = [f"{reply}<|im_end|>\n" for _, reply in row.get("history", ())]
    earlier = "".join(turn + reply for turn, reply in zip(turns, replies, strict=True))
    return f"{SYSTEM}{earlier}<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"


@torch.inference_mode()
def answer(model_dir: Path, prompts: list[str], max_new_tokens: int) -> list[str]:
    """The most likely reply to each prompt, all in one batch."""
    if not prompts:
        return []
    tokenizer = AutoTokenizer.from_pretrained(model_dir, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(model_dir).eval()
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    output = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=max_new_tokens,
        do_sample=False,
    )
    replies = output[:, inputs["input_ids"].shape[1] :]
    texts: list[str] = tokenizer.batch_decode(replies, skip_special_tokens=True)
    return texts


if __name__ == "__main__":
    main()
