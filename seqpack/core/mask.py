"""Who may see whom inside a pack; apart from the other types because options need it and must not import numpy."""

from enum import StrEnum


class MaskMode(StrEnum):
    """Who may attend to whom inside a pack.

    ``BLOCK_CAUSAL``: each sample only to itself (``--neat-pack``); ``CAUSAL``: one lower triangle over the whole pack.
    """

    BLOCK_CAUSAL = "block-causal"
    CAUSAL = "causal"
