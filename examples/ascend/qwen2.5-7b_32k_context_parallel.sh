#!/usr/bin/env bash
# All weights of Qwen2.5-7B, on packs of 32,768 tokens that four NPUs share, on the 8 NPUs of one machine.
# RAW, MODEL, DATA, SAVE and NPROC may be set; arguments go to seqpack train, such as --dry-run.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

RAW=${RAW:-data/alpaca_en.jsonl}
MODEL=${MODEL:-models/Qwen2.5-7B}
DATA=${DATA:-packs/alpaca-32k}
SAVE=${SAVE:-runs/qwen2.5-7b-32k}

seqpack preprocess "$RAW" --handler AlpacaStyleInstructionHandler --prompt-type qwen --tokenizer "$MODEL" \
    --seq-length 32768 --neat-pack -o "$DATA"

# --context-parallel-algo auto takes the cheapest way for each pack; --dry-run prints what each way would cost.
seqpack train "$DATA" --model "$MODEL" --device npu --nproc "${NPROC:-8}" --dtype bfloat16 \
    --context-parallel-size 4 --context-parallel-algo auto \
    --micro-batch-size 1 --global-batch-size 16 --train-iters 2000 \
    --lr 1.25e-6 --min-lr 1.25e-7 --lr-decay-style cosine --lr-warmup-fraction 0.01 --weight-decay 0.1 --clip-grad 1.0 \
    --adam-beta1 0.9 --adam-beta2 0.95 --recompute-granularity full \
    --save-interval 500 --save "$SAVE" "$@"
