"""Weights out of a Megatron checkpoint, whole and under the names of Hugging Face, whatever its layout and split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from seqpack.convert.convert import compare_repeats
from seqpack.convert.copying import OpenFiles
from seqpack.convert.huggingface import huggingface_tensors
from seqpack.convert.plan import make_plan
from seqpack.convert.source import open_megatron
from seqpack.convert.verify import read as read_rows
from seqpack.core.progress import no_progress
from seqpack.models.sources import Where


class CheckpointSource:
    """See ``sources.TensorSource``. A part is read by rows: of these in full width, then the columns are taken.

    CheckpointError SP401 to SP411 if the checkpoint is not whole, not of its config, or its ranks disagree.
    """

    def __init__(self, checkpoint: Path, directory: Path) -> None:
        """``directory`` has the model's config.json."""
        source = open_megatron(checkpoint, [directory], need_config=True)
        compare_repeats(make_plan(source.tensors, huggingface_tensors(source.model)), source, no_progress)
        assert source.find is not None
        self._find, self._places = source.find, source.places
        self._shapes = dict(source.model.huggingface())

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self._shapes.get(name)

    def read(self, name: str, where: Where) -> torch.Tensor:
        shape, holding = self._shapes[name], self._find(name)[0]
        rows, columns = where[0], where[1] if len(where) > 1 else slice(0, 1)
        dtype = self._places[holding.shards[0]].dtype
        found = np.empty((rows.stop - rows.start, shape[1] if len(shape) > 1 else 1), dtype.bits)
        with OpenFiles() as files:
            read_rows(holding, self._places, rows.start, found, files)
        values = torch.from_numpy(found).view(getattr(torch, dtype.torch))[:, columns]
        return values if len(shape) > 1 else values[:, 0]
