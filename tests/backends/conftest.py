"""Packages and a fake runtime for the tests of the Core ML backend, made once."""

import os
from contextlib import contextmanager
from pathlib import Path

import pytest

FAKE = "tests.backends.coreml_fake"


@pytest.fixture(scope="session")
def coreml_plain(tmp_path_factory):
    from tests.backends.coreml_packages import plain

    return plain(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def coreml_counter(tmp_path_factory):
    from tests.backends.coreml_packages import counter

    return counter(tmp_path_factory.mktemp("counter"))


@pytest.fixture(scope="session")
def coreml_both(tmp_path_factory, coreml_plain, coreml_counter):
    from tests.backends.coreml_packages import both

    return both(tmp_path_factory.mktemp("both"), coreml_plain, coreml_counter)


@pytest.fixture(scope="session")
def misbehaving(tmp_path_factory):
    """``with misbehaving("predict=nan"):`` what the fake runtime does wrong in the meantime.

    One file for the whole process: workers are shared, and each reads the file that was named when it was started.
    """
    control = Path(os.environ.setdefault("WORKBENCH_FAKE_COREML", str(tmp_path_factory.mktemp("fake") / "deed")))

    @contextmanager
    def told(deed):
        control.write_text(deed)
        try:
            yield
        finally:
            control.write_text("")

    return told


@pytest.fixture(scope="session")
def opened(misbehaving):
    """``opened(path, function, units)``: programs on the fake runtime; their workers live as long as the tests."""
    from workbench.backends.coreml_device import DeviceProgram

    made = []

    def open_program(path, function=None, units="CPU_AND_NE", **options):
        made.append(DeviceProgram(path, function, units, runtime=FAKE, **{"timeout_seconds": 60.0, **options}))
        return made[-1]

    yield open_program
    for program in made:
        program.close()


@pytest.fixture(scope="session")
def coreml_wide(tmp_path_factory):
    from tests.backends.coreml_packages import wide

    return wide(tmp_path_factory.mktemp("wide"))
