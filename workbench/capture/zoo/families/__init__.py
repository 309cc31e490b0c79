"""One family a file; each has a ``FAMILY`` (or ``FAMILIES``) made of ``workbench.capture.zoo.family.Family``."""
