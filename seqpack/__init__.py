"""Packed sequences for instruction tuning and pretraining: prepare them, look at them, train on them."""

__version__ = "0.1.0"
