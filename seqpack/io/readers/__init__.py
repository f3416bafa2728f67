"""Records out of files, one at a time, each with the line or row it stands on.

The same rows come out of every kind of file, in bounded memory. Kinds differ in how they write "nothing": CSV has only
the empty text, Parquet and Arrow have nulls for columns that JSON rows leave out. Readers hand on what is there; for a
handler ``""``, ``None`` and an absent column mean the same, except that a file whose first row lacks a required column
altogether is an error.
"""

from seqpack.io.readers.inputs import InputNote, input_notes, resolve_inputs
from seqpack.io.readers.kinds import known_kinds, read_records
from seqpack.io.readers.record import Record

__all__ = ["InputNote", "Record", "input_notes", "known_kinds", "read_records", "resolve_inputs"]
