"""Runtimes: is it here, which device, wait for it, how much memory."""
