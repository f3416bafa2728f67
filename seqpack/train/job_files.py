"""Commands and job files that start one run on several machines; free of torch."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from seqpack.train.interfaces import VARIABLES

if TYPE_CHECKING:
    from seqpack.options.launch import LaunchOptions

DEVICE_VARIABLES = {
    # Machines that load their data at different speed are no failure: HCCL gives up after 120 s by itself.
    "npu": {"HCCL_CONNECT_TIMEOUT": "1800"},
    "cuda": {},
    "cpu": {},
}
DEVICE_RESOURCES = {"npu": "huawei.com/Ascend910", "cuda": "nvidia.com/gpu", "cpu": ""}
SLURM_DEVICES = {"npu": "#SBATCH --gres=npu:{}", "cuda": "#SBATCH --gpus-per-node={}", "cpu": ""}


def job_files(options: LaunchOptions) -> dict[str, str]:
    """Name of each file -> its text, for the format that was asked for."""
    if options.format == "slurm":
        return {f"{options.job_name}.sbatch": _slurm(options)}
    if options.format == "kubernetes":
        return {f"{options.job_name}.yaml": _kubernetes(options)}
    return {f"node-{rank}-{host}.sh": _script(options, rank) for rank, host in enumerate(options.hosts)}


def variables(options: LaunchOptions) -> dict[str, str]:
    """What the environment of every machine holds; without ``--interface`` each finds its own."""
    network = {name: options.interface for name in VARIABLES if options.interface}
    return DEVICE_VARIABLES[options.device] | network


def _words(options: LaunchOptions, node_rank: str, master: str) -> str:
    """The command of a machine; ``node_rank`` and ``master`` may be variables of the shell."""
    own = shlex.join(["seqpack", *options.command])
    nodes = f"--nnodes {options.num_nodes} --node-rank {node_rank} --nproc {options.nproc}"
    return f"{own} {nodes} --master-addr {master} --master-port {options.master_port}"


def _exports(options: LaunchOptions) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in variables(options).items()]


def _script(options: LaunchOptions, rank: int) -> str:
    lines = ["#!/bin/sh", f"# machine {rank} of {options.num_nodes}: {options.hosts[rank]}", *_exports(options)]
    return "\n".join([*lines, f"exec {_words(options, str(rank), shlex.quote(options.hosts[0]))}", ""])


def _slurm(options: LaunchOptions) -> str:
    devices = SLURM_DEVICES[options.device].format(options.nproc)
    step = shlex.quote(f"exec {_words(options, '$SLURM_NODEID', '$MASTER')}")
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={options.job_name}",
        f"#SBATCH --nodes={options.num_nodes}",
        "#SBATCH --ntasks-per-node=1",
        *([devices] if devices else []),
        *([f"#SBATCH --nodelist={','.join(options.hosts)}"] if options.hosts else []),
        "#SBATCH --signal=TERM@120",  # to the steps, which save and stop
        "",
        *_exports(options),
        'export MASTER=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        f"exec srun --kill-on-bad-exit=1 bash -c {step}",
        "",
    ]
    return "\n".join(lines)


def _kubernetes(options: LaunchOptions) -> str:
    """An indexed Job and the headless Service that gives its pods names."""
    import yaml

    name, resource = options.job_name, DEVICE_RESOURCES[options.device]
    command = f"exec {_words(options, '$JOB_COMPLETION_INDEX', f'{name}-0.{name}')}"
    container: dict[str, object] = {
        "name": "seqpack",
        "image": options.image,
        "command": ["sh", "-c", command],
        "env": [{"name": key, "value": value} for key, value in variables(options).items()],
    }
    if resource:
        container["resources"] = {"limits": {resource: options.nproc}}
    pod = {"subdomain": name, "restartPolicy": "Never", "containers": [container]}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {"job-name": name}},
    }
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "completions": options.num_nodes,
            "parallelism": options.num_nodes,
            "completionMode": "Indexed",
            "backoffLimit": 0,
            "template": {"spec": pod},
        },
    }
    return str(yaml.safe_dump_all([service, job], sort_keys=False, width=10_000))
