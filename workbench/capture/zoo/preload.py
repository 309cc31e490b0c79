"""Imported once by the process that rows are forked from (multiprocessing's fork server): torch and transformers, in one thread.

A row in a fresh interpreter spends nine tenths of its time on these imports. The environment must be set before they happen, since
numpy's and torch's libraries start their threads when they are loaded, and threads do not survive a fork.
"""

import os
import sys
from importlib import import_module

from workbench.capture.zoo.worker import ENVIRONMENT, PRELOADED, redirect

os.environ.update(ENVIRONMENT)
kept = [os.dup(number) for number in (1, 2)]
for number in (1, 2):
    redirect(number, os.devnull)
try:
    for name in PRELOADED:
        import_module(name)
except Exception as error:  # noqa: BLE001  a row that needs the library says so itself
    print(f"not preloaded: {error}", file=sys.stderr)
finally:
    for number, copy in zip((1, 2), kept, strict=True):
        os.dup2(copy, number)
        os.close(copy)
