"""``seqpack convert``: weights between Hugging Face and Megatron-core."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqpack.core.errors import DeviceError
from seqpack.options.convert import ConvertOptions
from seqpack.options.output import OutputOptions

if TYPE_CHECKING:
    from rich.table import Table

    from seqpack.convert.convert import ConvertReport


def convert(convert: ConvertOptions, output: OutputOptions) -> None:
    """Convert weights between Hugging Face and Megatron-core, bit for bit.

    Llama and Qwen2 (Qwen2.5), to one rank (TP 1, PP 1) of Megatron's legacy
    format. The checkpoint keeps the model's config and tokenizer in hf/, so that
    the way back needs nothing else. Where the output already is a model, the way
    back writes to mg2hg/ inside it.

    Examples:
      seqpack convert Qwen2.5-0.5B --to mcore -o qwen-mcore
      seqpack convert qwen-mcore --to hf -o qwen-trained
      seqpack convert trained-mcore --to hf --hf-dir Qwen2.5-0.5B -o qwen-trained --max-shard-size 2GB
    """
    from seqpack.report.console import Console

    try:
        from seqpack.convert.convert import convert_weights
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "safetensors"):
            raise
        raise DeviceError(
            "SP502", f"convert needs {error.name}, which is not installed", help='pip install "seqpack-toolkit[train]"'
        ) from error
    console = Console(output)
    report = convert_weights(convert, console.progress)
    for note in report.notes:
        console.note(note)
    console.print(_table(report))
    console.note(f"wrote {report.output}")
    console.result(
        {
            "output": str(report.output),
            "family": report.family,
            "tensors": report.num_tensors,
            "bytes": report.num_bytes,
            "dtypes": list(report.dtypes),
            "seconds": round(report.seconds, 3),
            "verified": report.verified,
            "notes": list(report.notes),
        }
    )


def _table(report: ConvertReport) -> Table:
    from rich.table import Table

    table = Table("family", "tensors", "bytes", "dtype", "time", "verified")
    table.add_row(
        report.family,
        f"{report.num_tensors:,}",
        f"{report.num_bytes:,}",
        ", ".join(report.dtypes),
        f"{report.seconds:.1f} s",
        "every byte" if report.verified else "no",
    )
    return table
