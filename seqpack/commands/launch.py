"""``seqpack launch``."""

from __future__ import annotations

from seqpack.options.launch import LaunchOptions
from seqpack.options.output import OutputOptions


def launch(launch: LaunchOptions, output: OutputOptions) -> None:
    """Commands, a Slurm script or a Kubernetes job that start one run on several machines.

    Prints them, or writes them with --write; nothing is started. Each machine is told its place, and HCCL, NCCL and
    gloo which network to take.

    Examples:
      seqpack launch --hosts node-a node-b --nproc 8 -- train packs/a --model models/Qwen2.5-7B --save runs/a
      seqpack launch --nnodes 4 --device cuda --format slurm --write jobs -- train packs/a --model DIR --save runs/a
      seqpack launch --nnodes 2 --format kubernetes --image registry/seqpack:1 -- verify packs/a --model DIR
    """
    from seqpack.report.console import Console
    from seqpack.train.job_files import job_files

    console = Console(output)
    files = job_files(launch)
    if launch.write is None:
        for name, text in files.items():
            if len(files) > 1:
                console.note(f"# {name}", style="bold")
            console.show(text)
    else:
        launch.write.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            path = launch.write / name
            path.write_text(text, encoding="utf-8")
            if text.startswith("#!"):
                path.chmod(path.stat().st_mode | 0o111)
            console.note(f"wrote {path}")
    console.result({"files": files, "written_to": None if launch.write is None else str(launch.write)})
