"""One architecture a file: how a folder saved by transformers 5 becomes what ports read. See ``workbench.convert.layout``."""
