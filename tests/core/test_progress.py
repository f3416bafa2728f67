from __future__ import annotations

from seqpack.core.progress import no_progress


def test_showing_nothing_is_silent(capsys):
    with no_progress("read", total=3, unit="rows") as advance:
        advance(3)
    assert capsys.readouterr() == ("", "")
