"""One finding a file; each has a ``FINDING`` made of ``workbench.capture.zoo.finding.Finding``: a patch that restores parity."""
