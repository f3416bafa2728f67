"""The options of ``seqpack launch``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seqpack.core.errors import ConfigError
from seqpack.options.field import option
from seqpack.options.nodes import DEFAULT_PORT

LAUNCHED = ("train", "verify")
"""Commands that several machines can run together."""
SET_HERE = ("--nnodes", "--node-rank", "--master-addr", "--master-port", "--nproc")


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchOptions:
    """What is launched"""

    command: list[str] = option(
        help="The seqpack command to run on all machines, behind --: train or verify with its own options.",
        flags=("--command",),
        positional=True,
        metavar="-- train ...",
    )
    hosts: list[str] = option([], "The machines, machine 0 first.", metavar="HOST...")
    nnodes: int | None = option(None, "Number of machines. Default: as many as --hosts.", min=1)
    nproc: int = option(8, "Processes on each machine: one for each device.", min=1)
    master_port: int = option(DEFAULT_PORT, "A free port of machine 0.", min=1, max=65535)
    device: Literal["npu", "cuda", "cpu"] = option(
        "npu", "The kind of device, which decides what is set and asked for."
    )
    interface: str | None = option(
        None,
        "Network interface through which the machines reach each other. Default: each finds the one to machine 0.",
        metavar="NAME",
    )
    format: Literal["commands", "slurm", "kubernetes"] = option(
        "commands", "A command for each machine, a script for sbatch, or a Job for kubectl apply."
    )
    job_name: str = option("seqpack", "Name of the Slurm or Kubernetes job.")
    image: str = option("IMAGE", "Container image of the Kubernetes job.")
    write: Path | None = option(None, "Write files to this directory instead of printing them.", metavar="DIRECTORY")

    def __post_init__(self) -> None:
        if not self.command or self.command[0] not in LAUNCHED:
            seen = f"not {self.command[0]}" if self.command else "and nothing is given"
            raise ConfigError(
                "SP620",
                f"several machines run {' or '.join(LAUNCHED)} together, {seen}",
                help="seqpack launch --hosts a b -- train packs/a --model DIR --save runs/a",
            )
        for word in self.command:
            if word.partition("=")[0] in SET_HERE:
                raise ConfigError(
                    "SP620", f"{word} stands behind --, but it is set for each machine", help="give it before --"
                )
        if self.hosts and self.nnodes not in (None, len(self.hosts)):
            raise ConfigError(
                "SP620", f"--nnodes {self.nnodes}, but --hosts names {len(self.hosts)}", help="leave one of them out"
            )
        if not self.hosts and self.format == "commands":
            raise ConfigError(
                "SP620", "--format commands needs the names of the machines", help="name them: --hosts a b"
            )
        if self.nnodes is None and not self.hosts:
            raise ConfigError("SP620", "the number of machines is missing", help="give --nnodes 2")

    @property
    def num_nodes(self) -> int:
        return self.nnodes or len(self.hosts)
