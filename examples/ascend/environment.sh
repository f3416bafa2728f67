# Sourced by the scripts of this folder: CANN, and what torch needs to know of an NPU before it starts.
cann=${ASCEND_SET_ENV:-/usr/local/Ascend/ascend-toolkit/set_env.sh}
if [ -f "$cann" ]; then
    set +u # that file reads variables which may not be set
    source "$cann"
    set -u
else
    echo "note: there is no $cann; ASCEND_SET_ENV names CANN's set_env.sh if it lies elsewhere" >&2
fi
# Blocks of memory grow instead of being cut up: packs of one length do not need it, unpacked rows do.
export PYTORCH_NPU_ALLOC_CONF=${PYTORCH_NPU_ALLOC_CONF:-expandable_segments:True}
# Operators are sent to the NPU by a thread of their own.
export TASK_QUEUE_ENABLE=${TASK_QUEUE_ENABLE:-2}
