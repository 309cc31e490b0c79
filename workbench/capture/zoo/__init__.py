"""Conformance without weights: tiny random checkpoints of every family, in transformers and in the port, compared position by position."""
