"""Fixtures that several folders of tests share, and how ``make test`` spreads the files over processes (pytest-xdist)."""

import os
from pathlib import Path

import pytest

# The models under test are tiny: a second thread gains nothing, and its busy waiting is very slow on a machine with other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

WORKER_BYTES = 3 * 2**30
"""What a process of tests takes at most: torch, transformers, MLX and coremltools, and a model of each."""
APART = ("tests/test_notebooks.py", "tests/run/test_kill.py")
"""Files whose tests are long processes that share no fixture: each test goes to whichever worker is free."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """``-n auto``: a worker for each core, as far as memory goes."""
    from workbench.backends.hardware import memory_bytes, usable_cores

    return max(1, min(usable_cores(), (memory_bytes() or 0) // WORKER_BYTES))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """``--dist loadfile``: the tests of a file stay in one process, so that its fixtures are made once; those of `APART` do not."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if nodeid.startswith(APART) else super()._split_scope(nodeid)

    return Scheduling(config, log)


def pytest_collection_modifyitems(config, items):
    """In a worker, files with tests that are marked slow come first: one that began last would be waited for by all others."""
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real responses with the authors' own results; not part of the project, so tests that need them may skip."""
    folder = os.environ.get("WORKBENCH_SHARED_DATA")
    if not folder:
        pytest.skip("WORKBENCH_SHARED_DATA is not set: no official responses to compare with")
    if not (Path(folder) / "official").is_dir():
        pytest.fail(f"WORKBENCH_SHARED_DATA={folder} holds no folder official/")
    return Path(folder)
