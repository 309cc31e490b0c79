"""The Mac test kit: the contract between the workbench and Apple's own runtime.

A Mac owner runs ``make test-mac`` (about ten minutes the first time, most of it conversions and the preparation for the Neural Engine;
Apple silicon, macOS 14 or newer, 15 for states). Every test runs with all four compute units. A unit that ends the process is
recorded, not fatal: it stands in the summary as an expected failure, with the signal and what the process said last.

Off a Mac the same tests run as a rehearsal in ``make test``: the runtime is then ``tests.backends.coreml_fake``, which is as strict as
coremltools' binding and computes with the reference executor. What such a rehearsal cannot show is Apple's arithmetic.
"""

from __future__ import annotations

import platform

import pytest

from tests.backends.conftest import FAKE, coreml_both, coreml_counter, coreml_plain, misbehaving  # noqa: F401  the small packages

MAC = platform.system() == "Darwin"
RUNTIME = "coremltools" if MAC else FAKE
UNITS = ("CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE", "ALL") if MAC else ("CPU_AND_NE",)
RECIPES = (
    {"precision": "fp32", "target": "iOS18", "stateful": True},
    {"precision": "fp16", "target": "iOS18", "stateful": True},
    {"precision": "fp16", "target": "iOS17", "stateful": False},
)[: None if MAC else 1]
STAGES = (("vlm", "vision"), ("vlm", "step"), ("stt", "step"), ("vlm", "prefill"), ("stt", "encoder"))[: None if MAC else 3]


@pytest.fixture(scope="session", params=UNITS)
def units(request):
    return request.param


@pytest.fixture(scope="session")
def artifact():
    """``artifact("vlm", recipe)``: the demo model, converted on the spot; on a Mac into the user's cache, where it stays."""
    from workbench.models.converted import Converted

    def made(name, recipe):
        if not MAC:
            from tests.convert.converted_models import converted

            return Converted(converted(f"demo:{name}", **recipe))
        from workbench.convert.coreml.cache import ensure
        from workbench.types import ModelSpec

        options = "&".join(
            f"{option}={str(value).lower() if value in (True, False) else value}" for option, value in recipe.items()
        )
        return Converted(ensure(ModelSpec.parse(f"demo:{name}@coreml?{options}")))

    return made


@pytest.fixture(scope="session")
def device(misbehaving):  # noqa: F811
    """``device(path, function, units)``: a program on the real runtime, opened once.

    A unit that ends its process is an expected failure, CPU_ONLY excepted; a package that this macOS is too old for skips the test.
    """
    from workbench.backends.coreml_device import DeviceProgram
    from workbench.backends.coreml_package import macos_version, read
    from workbench.backends.coreml_process import DeviceFailure

    opened = {}

    def program(path, function, units, fresh=False):
        least = read(path, function).least_macos
        if MAC and macos_version() < least:
            pytest.skip(f"needs macOS {least[0]}, this is {'.'.join(map(str, macos_version()))}")
        key = (str(path), function, units)
        if fresh or key not in opened or opened[key].process.failure is not None:
            try:
                made = DeviceProgram(path, function, units, runtime=RUNTIME)
            except DeviceFailure as failure:
                recorded(failure)
            if fresh:
                opened[key, len(opened)] = made
                return made
            opened[key] = made
        return opened[key]

    yield program
    for made in opened.values():
        made.close()


def recorded(failure):
    """The abort of a compute unit, as a result. On the CPU alone, and in a rehearsal, there is no excuse."""
    if failure.units == "CPU_ONLY" or not MAC:
        raise failure
    pytest.xfail(f"recorded: {failure.what}; {failure.why}")


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """An abort in the middle of a test is recorded too."""
    from workbench.backends.coreml_process import DeviceFailure

    try:
        return (yield)
    except DeviceFailure as failure:
        recorded(failure)
