"""Conversions between formats and layouts of one model."""
