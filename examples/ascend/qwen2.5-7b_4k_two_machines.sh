#!/usr/bin/env bash
# As qwen2.5-7b_4k_one_machine.sh, on two machines of 8 NPUs. Run it on each of them:
#   IFNAME=enp67s0f5 MASTER_ADDR=10.0.0.1 NODE_RANK=0 examples/ascend/qwen2.5-7b_4k_two_machines.sh
# IFNAME is the network interface that leads to the other machine (ip addr shows them), MASTER_ADDR the address of
# machine 0. DATA, MODEL and SAVE lie on a disk that both see; DATA is what the other script has made.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

MODEL=${MODEL:-models/Qwen2.5-7B}
DATA=${DATA:-packs/alpaca-4k}
SAVE=${SAVE:-runs/qwen2.5-7b-4k-two-machines}

# gloo carries the metrics and waits for ranks, HCCL carries weights and gradients: both have to know the interface.
export GLOO_SOCKET_IFNAME=${IFNAME:?name the network interface that leads to the other machine}
export HCCL_SOCKET_IFNAME="=$IFNAME"
# Seconds that HCCL waits for the others at the first exchange; its own 120 are short for reading a model.
export HCCL_CONNECT_TIMEOUT=${HCCL_CONNECT_TIMEOUT:-1800}

# Each machine holds the whole model (--dp-replicate 2), so that only gradients cross the network.
torchrun --nnodes "${NNODES:-2}" --node-rank "${NODE_RANK:?0 on the first machine, 1 on the other}" \
    --master-addr "${MASTER_ADDR:?the address of machine 0}" --master-port "${MASTER_PORT:-29500}" \
    --nproc-per-node "${NPROC:-8}" -m seqpack train "$DATA" --model "$MODEL" --device npu --dtype bfloat16 \
    --dp-replicate "${NNODES:-2}" --micro-batch-size 1 --global-batch-size 128 --train-iters 2000 \
    --lr 1.25e-6 --min-lr 1.25e-7 --lr-decay-style cosine --lr-warmup-fraction 0.01 --weight-decay 0.1 --clip-grad 1.0 \
    --adam-beta1 0.9 --adam-beta2 0.95 --recompute-granularity selective \
    --save-interval 500 --save "$SAVE" "$@"
