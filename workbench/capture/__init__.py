"""The runtime side of the middle rungs: tensors recorded through hooks, localisation, the causality probe, and the zoo."""
