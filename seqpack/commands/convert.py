"""``seqpack convert``: weights between Hugging Face and Megatron-core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seqpack.options.convert import ConvertOptions, IgnoredConvertOptions, MegatronOptions, RefusedConvertOptions
from seqpack.options.output import OutputOptions

if TYPE_CHECKING:
    from rich.table import Table

    from seqpack.convert.convert import ConvertReport


def convert(
    convert: ConvertOptions,
    megatron: MegatronOptions,
    ignored: IgnoredConvertOptions,
    refused: RefusedConvertOptions,
    output: OutputOptions,
) -> None:
    """Convert weights between Hugging Face and Megatron-core, bit for bit.

    Llama, Qwen2 (Qwen2.5), Qwen3, Mistral, Qwen3-MoE and Mixtral, to and from
    any split over tensor, pipeline and expert parallel ranks. A checkpoint keeps
    the model's config and tokenizer in hf/, so that the way back needs nothing
    else. Where the output already is a model, the way back writes to mg2hg/
    inside it. --to mcore of a Megatron checkpoint splits it anew.

    Examples:
      seqpack convert Qwen2.5-7B --to mcore --tp 4 --pp 2 -o qwen-tp4-pp2
      seqpack convert qwen-tp4-pp2 --to hf -o qwen-trained --check
      seqpack convert trained-mcore --to hf --hf-dir Qwen2.5-0.5B -o qwen-trained --max-shard-size 2GB
    """
    from seqpack.convert.convert import convert_weights
    from seqpack.convert.request import Request
    from seqpack.report.console import Console

    console = Console(output)
    for note in ignored.notes():
        console.note(note)
    report = convert_weights(Request(convert, megatron, ignored, refused), console.progress)
    for note in report.notes:
        console.note(note)
    if report.unchecked:
        console.warn("SP135", report.unchecked)
    if report.num_tensors:
        console.print(_table(report))
    if report.check is not None:
        console.note(
            f"logits of source and output differ by at most {report.check.largest_difference:.3g} "
            f"(largest logit {report.check.largest_logit:.3g})"
        )
    if report.is_dry_run:
        console.note(f"dry run: nothing was written to {report.output}")
    else:
        console.note(f"wrote {report.output}")
    console.result(_result(report))


def _result(report: ConvertReport) -> dict[str, Any]:
    """What ``--json`` prints."""
    check = report.check
    return {
        "output": str(report.output),
        "family": report.family,
        "source_split": report.source_split or None,
        "split": report.split or None,
        "tensors": report.num_tensors,
        "bytes": report.num_bytes,
        "dtypes": list(report.dtypes),
        "seconds": round(report.seconds, 3),
        "dry_run": report.is_dry_run,
        "verified": report.verified,
        "largest_logit_difference": None if check is None else check.largest_difference,
        "notes": list(report.notes),
    }


def _table(report: ConvertReport) -> Table:
    from rich.table import Table

    table = Table("family", "from", "to", "tensors", "bytes", "dtype", "time", "verified")
    table.add_row(
        report.family,
        report.source_split or "Hugging Face",
        report.split or "Hugging Face",
        f"{report.num_tensors:,}",
        f"{report.num_bytes:,}",
        ", ".join(report.dtypes),
        f"{report.seconds:.1f} s",
        "every byte" if report.verified else "no",
    )
    return table
