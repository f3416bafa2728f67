"""``seqpack preprocess --dry-run``: everything that can be checked is checked, and nothing is written.

On a login node the data or the tokenizer may not be there: that is a warning here, where a real run would stop.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

from seqpack.core.errors import DataError
from seqpack.core.progress import Say
from seqpack.core.types import SetKind
from seqpack.hooks.host import plugin_host
from seqpack.hooks.specs import DatasetCatalogue, DatasetHandler
from seqpack.io.readers import resolve_inputs
from seqpack.io.readers.hub import HUB_PREFIX, may_be_hub_name
from seqpack.io.readers.kinds import reader_of
from seqpack.options.compat import CompatOptions
from seqpack.options.data import InputOptions, LengthOptions, PackOptions, TextOptions, WorkOptions, WriteOptions
from seqpack.pipeline.auto_handler import AUTO, FIRST_ROWS
from seqpack.pipeline.compat import open_mindspeed_template
from seqpack.pipeline.inputs import ResolvedInput, handler_options, kind_of, open_handler, resolve_input
from seqpack.pipeline.kinds import check_kind, set_paths
from seqpack.pipeline.mindspeed_input import mindspeed_input
from seqpack.pipeline.output import check_output
from seqpack.pipeline.preprocess import refuse_idle_flags
from seqpack.pipeline.samples import check_length
from seqpack.text.catalog import check_template, open_template
from seqpack.text.tokenizer import Tokenizer

UNDECIDED: Final = "undecided"


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a real run would do. ``files`` are names with sizes in bytes; ``warnings`` say what would stop it."""

    files: tuple[tuple[str, int], ...]
    handler: str
    handler_reason: str
    kind: SetKind | Literal["undecided"]
    template: str
    tokenizer: str
    tokenizer_engine: str
    seq_length: int | None
    packed: bool
    strategy: str | None
    mask: str | None
    on_overlong: str | None
    max_drop: float
    append_eod: bool
    compat: str
    workers: int | None
    outputs: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        value = dataclasses.asdict(self)
        return value | {"files": [{"path": path, "bytes": size} for path, size in self.files]}


def outlook(
    input: InputOptions,
    text: TextOptions,
    length: LengthOptions,
    pack: PackOptions,
    write: WriteOptions,
    work: WorkOptions,
    compat: CompatOptions,
) -> Outlook:
    """Check all of it. Raises as ``preprocess`` does, but for files and folders that are not there."""
    warnings: list[str] = []
    notes: list[str] = []
    check_length(length, packs=pack.packs)
    strategy = plugin_host().strategy(pack.strategy)
    refuse_idle_flags(length, pack, compat)
    mindspeed = compat.compat == "mindspeed"
    source = _source(input, warnings, notes.append, mindspeed=mindspeed)
    tokenizer = _tokenizer(text, warnings)
    is_text = source.kind == "pretrain"
    template = "" if is_text else _template(text, tokenizer, notes.append, source.handler if mindspeed else "")
    outputs: tuple[str, ...] = ()
    if source.kind != UNDECIDED:
        check_kind(source.kind, source.handler, text, pack)
        paths = set_paths(write.output_prefix, source.kind, source.keys)
        check_output(paths, write, packs=pack.packs)
        outputs = tuple(str(path) for path in [*paths.files, paths.manifest])
    return Outlook(
        files=tuple((str(file), file.stat().st_size) for file in source.files),
        handler=source.handler,
        handler_reason=source.reason,
        kind=source.kind,
        template=template,
        tokenizer=str(text.tokenizer),
        tokenizer_engine=text.tokenizer_engine,
        seq_length=length.seq_length,
        packed=pack.packs,
        strategy=("mindspeed" if mindspeed else strategy.name) if pack.packs else None,
        mask=str(pack.mask_mode) if pack.packs else None,
        on_overlong=None if length.seq_length is None or mindspeed or is_text else length.on_overlong,
        max_drop=1.0 if mindspeed else length.max_drop,
        append_eod=length.append_eod,
        compat=compat.compat,
        workers=1 if mindspeed or input.max_samples is not None else work.workers,
        outputs=outputs,
        notes=tuple(notes),
        warnings=tuple(warnings),
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """``files`` are those that are there."""

    files: list[Path]
    handler: str
    reason: str
    kind: SetKind | Literal["undecided"]
    keys: tuple[str, ...]


def _source(input: InputOptions, warnings: list[str], note: Say, *, mindspeed: bool) -> _Source:
    """Files and handler; the first rows of what is there are read by it."""
    options = handler_options(input)
    try:
        named = None if input.handler == AUTO else open_handler(input.handler, options)
    except DataError as error:  # a catalogue of data sets that is not there
        if error.code != "SP101":
            raise
        warnings.append(f"{error.message}; a real run would stop there")
        return _Source([], input.handler, "as asked", UNDECIDED, ())
    if named is not None and isinstance(named[1], DatasetCatalogue):
        paths = [path for path, _ in named[1].datasets(str(path) for path in input.input)]
    else:
        paths = list(input.input)
    there = [path for path in paths if _is_there(path, warnings)]
    if len(there) == len(paths):
        said: list[str] = []
        found = resolve_input(input, say=said.append)
        _try_rows(mindspeed_input(found, input) if mindspeed else found)
        reason = said[0].partition(", because of ")[2] if said else "as asked"
        return _Source(found.files, found.handler, reason, found.kind, _keys(found.handlers[0]))
    files = resolve_inputs(there)
    if named is None:
        return _Source(files, AUTO, "the columns of the data decide", UNDECIDED, ())
    component, handler = named
    note("the rows were not looked at, as not all files are there")
    return _Source(files, component.name, "as asked", kind_of(handler, component.name), _keys(handler))


def _keys(handler: DatasetHandler) -> tuple[str, ...]:
    return tuple(getattr(handler, "text_keys", ()) or getattr(handler, "column_names", ()))


def _is_there(path: Path, warnings: list[str]) -> bool:
    """Whether these files are at hand; nothing is loaded from a hub."""
    is_name = not path.exists() and reader_of(path) is None and may_be_hub_name(path)
    hub = str(path).startswith(HUB_PREFIX) or is_name
    if hub:
        warnings.append(f"{path} would be loaded from the Hugging Face hub, which was not tried")
        return False
    try:
        resolve_inputs([path])
    except DataError as error:
        if error.code != "SP101":
            raise
        warnings.append(f"{error.message}; a real run would stop there")
        return False
    return True


def _try_rows(found: ResolvedInput) -> None:
    """Read the first rows of every file as a real run would."""
    for number, file in enumerate(found.files):
        alone = replace(found, files=[file], handlers=[found.handlers[number]], sets=(0,))
        for _ in islice(alone.rows(list), FIRST_ROWS):
            pass


def _tokenizer(text: TextOptions, warnings: list[str]) -> Tokenizer | None:
    if not text.tokenizer.is_dir():
        warnings.append(f"there is no tokenizer directory {text.tokenizer}; a real run would stop there")
        return None
    return Tokenizer(text.tokenizer)


def _template(text: TextOptions, tokenizer: Tokenizer | None, note: Say, mindspeed_handler: str) -> str:
    """The template's name; ``mindspeed_handler`` is empty but under ``--compat mindspeed``."""
    if tokenizer is not None and mindspeed_handler:
        theirs = open_mindspeed_template(text, mindspeed_handler)
        if theirs.note:
            note(theirs.note)
        return theirs.name
    if tokenizer is None:
        note("whether template and tokenizer fit was not checked")
        return check_template(text)
    opened = open_template(text, tokenizer)
    if opened.note:
        note(opened.note)
    return opened.name
