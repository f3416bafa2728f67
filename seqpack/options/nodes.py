"""Several machines: the options that torchrun has, and the environment variables that schedulers and scripts set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from seqpack.core.errors import ConfigError
from seqpack.options.field import option
from seqpack.options.train import RunOptions

DEFAULT_PORT = 29500
PROCESS_VARIABLES = ("NPROC_PER_NODE", "GPUS_PER_NODE", "NPUS_PER_NODE")


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeOptions:
    """Machines"""

    nnodes: int | None = option(
        None, "Machines that train together; the same command is given on each. Default: $NNODES, or 1.", min=1
    )
    node_rank: int | None = option(
        None, "Which of them this is, from 0; it stands in for the others on screen. Default: $NODE_RANK.", min=0
    )
    master_addr: str | None = option(
        None, "Name or address of machine 0, as the others reach it. Default: $MASTER_ADDR.", metavar="HOST"
    )
    master_port: int | None = option(
        None, f"A free port of machine 0. Default: $MASTER_PORT, or {DEFAULT_PORT}.", min=1, max=65535
    )
    no_shared_storage: bool = option(
        False,
        "Each of several machines has a disk of its own: data set and model lie on each, under the same names; no "
        "checkpoints are written, and the model ends up on machine 0.",
        negation=False,
    )


@dataclass(frozen=True, slots=True)
class Nodes:
    """``count`` machines with ``nproc`` processes each, of which this is number ``rank``."""

    nproc: int
    count: int = 1
    rank: int = 0
    master_addr: str = "127.0.0.1"
    master_port: int | None = None
    """None on a single machine: any free one will do."""

    @property
    def world_size(self) -> int:
        return self.count * self.nproc

    def environment(self, local_rank: int, master_port: int) -> dict[str, str]:
        """What process ``local_rank`` of this machine is told, under torchrun's names."""
        return {
            "MASTER_ADDR": self.master_addr,
            "MASTER_PORT": str(master_port),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_WORLD_SIZE": str(self.nproc),
            "GROUP_RANK": str(self.rank),
            "RANK": str(self.rank * self.nproc + local_rank),
            "LOCAL_RANK": str(local_rank),
        }


def nodes_to_start(options: NodeOptions, nproc: int | None, environment: Mapping[str, str]) -> Nodes | None:
    """The machines and processes that a command has to start; None if it is to compute itself.

    A process that torchrun or another command started has its ``RANK`` and starts nothing. Raises ConfigError SP620
    for a machine that does not know its place.
    """
    if "RANK" in environment:
        return None
    count = options.nnodes if options.nnodes is not None else _number(environment, "NNODES")
    per_node = (
        nproc if nproc is not None else next(filter(None, (_number(environment, v) for v in PROCESS_VARIABLES)), None)
    )
    if count is None or count == 1:
        _refuse_idle(options)
        return None if per_node is None else Nodes(per_node)
    rank = options.node_rank if options.node_rank is not None else _number(environment, "NODE_RANK")
    address = options.master_addr or environment.get("MASTER_ADDR")
    if rank is None or address is None:
        missing = "--node-rank" if rank is None else "--master-addr"
        raise ConfigError(
            "SP620",
            f"{count} machines train together, but {missing} is missing",
            help="give each machine its --node-rank (0, 1, ...) and all the --master-addr of machine 0; "
            "seqpack launch writes the commands",
        )
    if rank >= count:
        raise ConfigError(
            "SP620", f"--node-rank {rank} is not one of {count} machines", help=f"they are numbered 0 to {count - 1}"
        )
    port = options.master_port or _number(environment, "MASTER_PORT") or DEFAULT_PORT
    return Nodes(per_node or 1, count, rank, address, port)


def have_own_disks(options: NodeOptions, started: Nodes | None, environment: Mapping[str, str]) -> bool:
    """Whether several machines take part that share no disk; the processes of a single one always share theirs."""
    if started is not None:
        return options.no_shared_storage and started.count > 1
    return options.no_shared_storage and environment.get("WORLD_SIZE") != environment.get("LOCAL_WORLD_SIZE")


def refuse_checkpoints(run: RunOptions) -> None:
    """ConfigError SP622 for what needs one directory that all machines see."""
    for flag, given in (("--save-interval", run.save_interval), ("--resume", run.resume)):
        if given is not None:
            raise ConfigError(
                "SP622",
                f"{flag} and --no-shared-storage: a checkpoint is one directory that every machine writes its part to",
                help="leave one of them out; --save on a disk that all machines see makes checkpoints possible",
            )


def _refuse_idle(options: NodeOptions) -> None:
    for flag in ("node_rank", "master_addr", "master_port"):
        if getattr(options, flag) is not None and not (flag == "node_rank" and options.node_rank == 0):
            name = f"--{flag.replace('_', '-')}"
            raise ConfigError(
                "SP620", f"{name} was given for a single machine", help="say how many there are: --nnodes 2"
            )


def _number(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name, "").strip()
    if not value:
        return None
    if not value.isascii() or not value.isdecimal():
        raise ConfigError("SP620", f"the environment has {name}={value}, which is no number", help=f"unset {name}")
    return int(value)
