"""Metric sinks for seqpack."""
