"""Handlers: one family of ops a file; see workbench.mil.registry."""
