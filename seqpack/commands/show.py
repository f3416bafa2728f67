"""``seqpack show``."""

from __future__ import annotations

from seqpack.options.data import ShowOptions
from seqpack.options.output import OutputOptions


def show(show: ShowOptions, output: OutputOptions) -> None:
    """Look at one pack: its samples and where they come from, what is trained on, who may attend to whom.

    Examples:
        seqpack show packs/mine --pack 12
        seqpack show packs/mine --pack 12 --tokens --no-mask
        seqpack show packs/mine --json
    """
    from seqpack.pipeline.show import show as look
    from seqpack.report.console import Console
    from seqpack.report.datasets import pack_screen

    console = Console(output)
    pack = look(show.source, show.pack, with_tokens=show.tokens)
    console.print(*pack_screen(pack, mask=show.mask))
    console.result(pack.to_dict())
