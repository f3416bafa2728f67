"""Train a byte-level BPE tokenizer on the rows of a data set, and save it as Hugging Face tokenizers are saved.

python make_tokenizer.py demo-out/data/train.jsonl --output demo-out/tokenizer
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# Every digit is a token of its own, as in Qwen: with tokens for "17" and "117" no rule of arithmetic could be seen.
DIGITS = pre_tokenizers.Digits(individual_digits=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a tokenizer.")
    parser.add_argument("data", type=Path, help="a .jsonl file in Alpaca columns")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--vocab-size", type=int, default=1024)
    arguments = parser.parse_args()
    with arguments.data.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    tokenizer = train_tokenizer((text for row in rows for text in row_texts(row)), arguments.vocab_size)
    save_tokenizer(tokenizer, arguments.output)
    print(f"{arguments.output}: {tokenizer.get_vocab_size():,} tokens, learned from {len(rows):,} rows")


def row_texts(row: dict[str, Any]) -> Iterator[str]:
    """Every text of a row, and the words that the prompt template puts around them."""
    yield from (row["instruction"], row["input"], row["output"])
    for user, assistant in row.get("history", ()):
        yield from (user, assistant)
    yield "system\nYou are a helpful assistant.\nuser\nassistant\n"


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE: any text can be encoded, and decoding gives it back unchanged."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([DIGITS, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "additional_special_tokens": [START],
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
