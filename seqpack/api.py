"""What plugins and scripts may rely on; everything else may move between minor versions."""

from seqpack.convert.families import ATTENTION, MLP, Join, Part, Rule, WeightConverter, experts_under
from seqpack.core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DataLossError,
    DeviceError,
    DistributedError,
    FormatError,
    PluginError,
    RejectError,
    SeqpackError,
)
from seqpack.core.mask import MaskMode
from seqpack.core.plan import PackPlan
from seqpack.core.types import (
    IGNORE_INDEX,
    Message,
    PackedSequence,
    Preference,
    Question,
    Sample,
    Span,
    TextSample,
    TokenizedSample,
)
from seqpack.hooks.component import Component
from seqpack.hooks.specs import (
    SEQPACK_PLUGIN_API,
    DatasetHandler,
    HandlerOptions,
    MetricSink,
    PackingStrategy,
    PromptTemplate,
    hookimpl,
)
from seqpack.io.packed import PackedDataset

__all__ = [
    "ATTENTION",
    "IGNORE_INDEX",
    "MLP",
    "SEQPACK_PLUGIN_API",
    "CheckpointError",
    "Component",
    "ConfigError",
    "DataError",
    "DataLossError",
    "DatasetHandler",
    "DeviceError",
    "DistributedError",
    "FormatError",
    "HandlerOptions",
    "Join",
    "MaskMode",
    "Message",
    "MetricSink",
    "PackPlan",
    "PackedDataset",
    "PackedSequence",
    "PackingStrategy",
    "Part",
    "PluginError",
    "Preference",
    "PromptTemplate",
    "Question",
    "RejectError",
    "Rule",
    "Sample",
    "SeqpackError",
    "Span",
    "TextSample",
    "TokenizedSample",
    "WeightConverter",
    "experts_under",
    "hookimpl",
]
