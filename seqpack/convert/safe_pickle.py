"""A pickle module for ``torch.load`` that builds tensors and plain values, and nothing that could run code.

``weights_only=True`` would refuse what Megatron-LM and MindSpeed-LLM really save: enums of their own packages in
``args``, pickle protocol 4, a defaultdict for the model. Here every class outside the list becomes an inert Unknown.
"""

from __future__ import annotations

import argparse
import collections
import pickle
import types
from pickle import load  # noqa: F401 -- part of what torch.load expects of a pickle module
from typing import Any

import torch

ALLOWED: dict[tuple[str, str], Any] = {
    ("argparse", "Namespace"): argparse.Namespace,
    ("types", "SimpleNamespace"): types.SimpleNamespace,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("builtins", "dict"): dict,
    ("builtins", "list"): list,
    ("builtins", "set"): set,
    ("builtins", "int"): int,
}


class Unknown:
    """Stands for an object of a class that is not in the list; takes whatever pickle does to it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Unknown:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Unknown:
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass


class Unpickler(pickle.Unpickler):
    """torch.load derives its own from this one and adds the storages."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return Unknown
