#!/usr/bin/env bash
# All weights of Qwen2.5-7B, on packs of 4,096 tokens, on the 8 NPUs of one machine.
# RAW, MODEL, DATA, SAVE and NPROC may be set; arguments go to seqpack train, such as --dry-run.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

RAW=${RAW:-data/alpaca_en.jsonl}         # Alpaca rows: instruction, input, output
MODEL=${MODEL:-models/Qwen2.5-7B}        # a Hugging Face directory, tokenizer included
DATA=${DATA:-packs/alpaca-4k}
SAVE=${SAVE:-runs/qwen2.5-7b-4k}

# Says "up to date" and does nothing where the packs are there already.
seqpack preprocess "$RAW" --handler AlpacaStyleInstructionHandler --prompt-type qwen --tokenizer "$MODEL" \
    --seq-length 4096 --neat-pack -o "$DATA"

# Each NPU holds an eighth of weights, gradients and optimizer, some 15 GiB, and reads packs of its own.
seqpack train "$DATA" --model "$MODEL" --device npu --nproc "${NPROC:-8}" --dtype bfloat16 \
    --micro-batch-size 1 --global-batch-size 64 --train-iters 2000 \
    --lr 1.25e-6 --min-lr 1.25e-7 --lr-decay-style cosine --lr-warmup-fraction 0.01 --weight-decay 0.1 --clip-grad 1.0 \
    --adam-beta1 0.9 --adam-beta2 0.95 --recompute-granularity selective \
    --save-interval 500 --save "$SAVE" "$@"
