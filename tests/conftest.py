"""Fixtures that several folders of tests share."""

import os
from pathlib import Path

import pytest

# The models under test are tiny: a second thread gains nothing, and its busy waiting is very slow on a machine with other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real responses with the authors' own results; not part of the project, so tests that need them may skip."""
    folder = os.environ.get("WORKBENCH_SHARED_DATA")
    if not folder:
        pytest.skip("WORKBENCH_SHARED_DATA is not set: no official responses to compare with")
    if not (Path(folder) / "official").is_dir():
        pytest.fail(f"WORKBENCH_SHARED_DATA={folder} holds no folder official/")
    return Path(folder)
