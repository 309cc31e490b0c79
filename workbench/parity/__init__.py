"""The parity ladder: two runs compared rung by rung, from their bundles alone. Nothing here loads a model or a runtime."""
