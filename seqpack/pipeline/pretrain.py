"""Pretraining text to documents on disk: a ``.bin``/``.idx`` pair for each column, every row a document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from seqpack.core.errors import ConfigError
from seqpack.io.manifest import Manifest
from seqpack.io.packed import PretrainPaths
from seqpack.io.shards import Shard
from seqpack.options.check import refuse_idle
from seqpack.options.data import LengthOptions, PackOptions, TextOptions
from seqpack.pipeline.distribute import Advance
from seqpack.pipeline.documents import DocumentParts, DocumentSource
from seqpack.pipeline.existing import unchanged_set
from seqpack.pipeline.inputs import ResolvedInput
from seqpack.pipeline.kinds import check_kind
from seqpack.pipeline.output import DataSetResult, PartsResult, Result, publish_columns, tokenizer_record
from seqpack.pipeline.parts import open_parts
from seqpack.pipeline.run import Run
from seqpack.pipeline.samples import check_loss
from seqpack.pipeline.work import make_parts


def preprocess_documents(input: ResolvedInput, run: Run) -> Result:
    """Tokenize text and write the set ``--output-prefix``. Raises as ``preprocess`` does, and ConfigError for packing.

    Documents stay whole whatever their length, since Megatron's pretraining cuts their stream into sequences.
    """
    refuse_text_flags(input, run.text, run.length)
    check_kind("pretrain", input.handler, run.text, run.pack)
    paths = PretrainPaths(run.write.output_prefix, input.text_keys)
    source = DocumentSource.open(input, run.text, run.length, run.compat)
    tokenizer = tokenizer_record(source.tokenizer, source.tokenizer.eos_token_id, source.tokenizer.pad_token_id)
    recipe = input.recipe | run.recipe()
    if same := unchanged_set(paths, run, recipe, tokenizer, input.files):
        return DataSetResult(paths, same, sources=tuple(input.files), is_unchanged=True)
    engine = source.choose_engine(run.text.tokenizer_engine)
    with open_parts(paths.prefix, run.part_settings(recipe, tokenizer), run) as store:

        def make_part(shard: Shard, advance: Advance) -> int:
            return source.make_part(shard, store, advance)

        made = make_parts(store, input.files, input.shards(), make_part, run=run, tokenizer=source.tokenizer)
        if run.leaves_parts:
            share, count = run.work.share, store.num_finished()
            return PartsResult(paths.prefix, store.folder, share, count, engine, tuple(input.files))
        aside = replace(paths, prefix=store.final / paths.prefix.name)
        documents = DocumentParts.join(made.parts(store), tuple(map(str, input.files)), len(input.text_keys))
        duplicates = 0 if run.length.dedup == "exact" else documents.num_duplicates()
        is_kept = documents.choose(source.mindspeed, dedup=run.length.dedup == "exact", rejects=aside.rejects)
        check_loss(documents.ledger, input.files, run.length)
        texts = documents.write(aside, is_kept, index_drops=source.mindspeed is not None)
        manifest = publish_columns(
            aside,
            paths,
            run,
            kind=input.kind,
            ledger=documents.ledger,
            tokenizer=tokenizer,
            recipe=recipe | {"tokenizer_engine": engine.label},
            inputs=made.records(),
            texts=texts,
        )
        store.remove()
    for note in _notes(manifest, run):
        run.say(note)
    return DataSetResult(paths, manifest, engine, tuple(input.files), duplicates=duplicates)


def refuse_text_flags(input: ResolvedInput, text: TextOptions, length: LengthOptions) -> None:
    """ConfigError SP028 for flags that only mean something for conversations."""
    if input.pregrouped:
        why = f"handler {input.handler!r} gives pretraining text"
        raise ConfigError("SP028", f"--pregrouped would do nothing: {why}", help="leave it out")
    check_kind("pretrain", input.handler, text, PackOptions())
    refuse_idle(
        length,
        ("on_overlong", "split_sft"),
        because="documents of pretraining text are never too long, Megatron's pretraining cuts their stream",
        help="leave it out, or choose the --handler of a conversation",
    )


def _notes(manifest: Manifest, run: Run) -> Iterator[str]:
    for key, record in manifest.texts.items():
        if record.empty:
            yield f"{record.empty:,} of {record.documents:,} rows have no {key!r}: an empty document keeps their place"
    if run.compat.compat == "mindspeed":
        if len({record.documents for record in manifest.texts.values()}) > 1:
            yield "the columns have different numbers of documents, as in MindSpeed-LLM: rows do not match any more"
    elif run.length.seq_length is not None:
        yield f"--seq-length {run.length.seq_length:,} has no effect on pretraining text: documents stay whole"
