"""``python -m seqpack``."""

from seqpack.cli.app import main

main()
