"""``seqpack show``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqpack.options.output import OutputOptions
from seqpack.options.screens import ShowOptions

if TYPE_CHECKING:
    from seqpack.io.packed import PackedDataset
    from seqpack.io.sets import DocumentSet
    from seqpack.report.console import Console


def show(show: ShowOptions, output: OutputOptions) -> None:
    """Look at one pack: its samples and where they come from, what is trained on, who may attend to whom. Or ask where
    a row of the raw data went (--sample), or which packs hold a text (--find).

    Examples:
        seqpack show packs/mine --pack 12 --tokens --mask-png mask.png
        seqpack show packs/mine --sample train.jsonl:17
        seqpack show packs/mine --find '<tool_call>' --json
    """
    from seqpack.io.sets import DocumentSet, open_set
    from seqpack.report.console import Console

    console = Console(output)
    dataset = open_set(show.source)
    if isinstance(dataset, DocumentSet):
        _show_document(dataset, show, console)
    elif show.sample is not None:
        _trace(dataset, show.sample, show, console)
    elif show.find is not None:
        _find(dataset, show.find, show, console)
    else:
        _show_pack(dataset, show, console)


def _show_pack(dataset: PackedDataset, show: ShowOptions, console: Console) -> None:
    from seqpack.pipeline.show import show_pack
    from seqpack.report.packs import pack_screen
    from seqpack.report.png import write_mask

    row = show.pack or 0
    pack = show_pack(dataset, row, with_tokens=show.tokens, tokenizer_dir=show.tokenizer)
    written = write_mask(show.mask_png, dataset[row], pack.mask) if show.mask_png else ""
    console.print(*pack_screen(pack, mask=show.mask))
    if written:
        console.note(written)
    console.result(pack.to_dict())


def _trace(dataset: PackedDataset, key: str, show: ShowOptions, console: Console) -> None:
    from seqpack.pipeline.trace import trace
    from seqpack.report.packs import traced_screen

    traced = trace(dataset, key, with_tokens=show.tokens, tokenizer_dir=show.tokenizer)
    console.print(*traced_screen(traced, len(dataset)))
    console.result(traced.to_dict())


def _find(dataset: PackedDataset, text: str, show: ShowOptions, console: Console) -> None:
    from seqpack.pipeline.trace import find_text
    from seqpack.report.packs import matches_screen

    found = find_text(dataset, text, limit=show.limit, tokenizer_dir=show.tokenizer, progress=console.progress)
    console.print(*matches_screen(found))
    console.result(found.to_dict())


def _show_document(dataset: DocumentSet, show: ShowOptions, console: Console) -> None:
    from seqpack.core.errors import ConfigError
    from seqpack.pipeline.shown_documents import show_document
    from seqpack.report.packs import document_screen

    for flag, value in (("--sample", show.sample), ("--find", show.find), ("--mask-png", show.mask_png)):
        if value is not None:
            raise ConfigError(
                "SP132",
                f"{show.source} holds pretraining text: {flag} needs samples in packs, and it has documents one by one",
                help="look at document N with --pack N",
            )
    row = show_document(dataset, show.pack or 0, with_tokens=show.tokens, tokenizer_dir=show.tokenizer)
    console.print(*document_screen(row))
    console.result(row.to_dict())
