"""Every name of coremltools that the worker uses exists in the installed one, with the parameters it is called with.

On a machine that is no Mac none of them can be called, so a rename would stay unseen until somebody runs it there.
"""

from __future__ import annotations

import dataclasses
import inspect
import platform

import pytest

from tests.backends.conftest import FAKE
from workbench.backends import coreml, coreml_package, coreml_platform


@pytest.fixture(scope="module")
def coremltools():
    return pytest.importorskip("coremltools")


@pytest.fixture(scope="module")
def fake(misbehaving):
    import importlib

    return importlib.import_module(FAKE)


def parameters(function):
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


CALLED = {
    "models.utils.compile_model": ["model", "destination_path"],
    "models.CompiledMLModel": ["path", "compute_units", "function_name", "optimization_hints", "asset"],
    "models.CompiledMLModel.predict": ["data", "state"],
    "models.CompiledMLModel.make_state": [],
    "models.compute_plan.MLComputePlan.load_from_path": ["path", "compute_units"],
    "models.compute_plan.MLComputePlan.get_compute_device_usage_for_mlprogram_operation": ["operation"],
    "models.compute_plan.MLComputePlan.get_estimated_cost_for_mlprogram_operation": ["operation"],
}


def reach(module, path):
    for part in path.split("."):
        module = getattr(module, part)
    return module


@pytest.mark.parametrize("name", CALLED)
def test_what_is_called(coremltools, fake, name):
    assert parameters(reach(coremltools, name)) == CALLED[name]
    assert parameters(reach(fake, name)) == CALLED[name]  # so what the other tests exercise is what a Mac has


def test_states_are_read_and_written_by_name(coremltools, fake):
    from coremltools.models.model import MLState

    for owner in (MLState, fake.MLState):
        assert parameters(owner.read_state) == ["name"] and parameters(owner.write_state) == ["name", "value"]


def test_compute_units(coremltools, fake):
    for module in (coremltools, fake):
        assert sorted(module.ComputeUnit.__members__) == sorted(coreml.UNITS)


def test_fields_of_the_compute_plan(coremltools):
    plan = coremltools.models.compute_plan
    for owner, fields in {
        "MLModelStructure": {"program"},
        "MLModelStructureProgram": {"functions"},
        "MLModelStructureProgramFunction": {"block"},
        "MLModelStructureProgramBlock": {"operations"},
        "MLModelStructureProgramOperation": {"operator_name", "outputs", "blocks"},
        "MLModelStructureProgramNamedValueType": {"name"},
        "MLComputePlanDeviceUsage": {"preferred_compute_device", "supported_compute_devices"},
        "MLComputePlanCost": {"weight"},
    }.items():
        assert fields <= {field.name for field in dataclasses.fields(getattr(plan, owner))}, owner
    assert isinstance(plan.MLComputePlan.model_structure, property)


def test_devices_are_told_by_their_class(coremltools):
    for name in coreml_platform.DEVICES:
        assert inspect.isclass(getattr(coremltools.models.compute_device, name))


def test_specification_versions(coremltools):
    """The newest that coremltools can write is one whose systems we know; targets carry the names we give them."""
    known = {int(target): target for target in coremltools.target}
    assert max(known) == max(coreml_package.LEAST_MACOS)
    for version, (major, minor) in coreml_package.LEAST_MACOS.items():
        assert coremltools.target[coreml_package.TARGETS[version]].value == version
        assert coremltools.target[f"macOS{major}"].value == version and minor == 0


def test_what_the_binding_does_not_take(coremltools):
    """The reason for handing fp16 over as float32 stands in coremltools itself."""
    import numpy as np

    given = {"x": np.ones(2, np.float16)}
    coremltools.models.MLModel._update_float16_multiarray_input_to_float32(given)
    assert given["x"].dtype == coreml_platform.handed(np.ones(2, np.float16)).dtype == np.float32
    fixed = np.ones(2, np.float32)
    assert coreml_platform.handed(fixed) is fixed
    fixed.setflags(write=False)
    assert coreml_platform.handed(fixed).flags.writeable
    assert coreml_platform.handed(np.ones((2, 2), np.int64)[:, ::-1]).dtype == np.int32


@pytest.mark.skipif(platform.system() == "Darwin", reason="says what happens off a Mac")
def test_off_a_mac_the_real_runtime_says_so(coreml_plain):
    from workbench.backends.coreml_device import DeviceProgram
    from workbench.errors import ModelError

    with pytest.raises(ModelError, match="Core ML cannot load program.mlpackage with units=CPU_ONLY"):
        DeviceProgram(coreml_plain, None, "CPU_ONLY")
