"""Which steps a kit has on a machine, and which it lacks."""

from pathlib import Path

import pytest

from workbench.backends.base import Availability
from workbench.cli import kit_plan
from workbench.cli.kit_plan import Here, plan
from workbench.errors import UsageError

OK, MISSING = Availability(True, "1.0"), Availability(False, "mlx is not installed", "pip install x")
NO_GPU = Availability(False, "no NVIDIA driver is here", "run the kit on a machine with an NVIDIA GPU")
LINUX = Here(dict.fromkeys(kit_plan.RUNTIMES, OK), engine=NO_GPU)
MAC = Here({**dict.fromkeys(kit_plan.RUNTIMES, OK), "onnx": MISSING, "tensorrt": MISSING}, ("mps",), mac=True)
NVIDIA = Here(dict.fromkeys(kit_plan.RUNTIMES, OK), ("cuda",), engine=OK)


def names(made):
    return [step.name for step in made.steps]


def test_a_mac_runs_every_compute_unit_in_both_precisions_and_ALL_last():
    made = plan(MAC)
    evals = [step for step in made.steps if step.what == "eval" and step.family == "vlm"]
    assert [step.variant for step in evals[:5]] == [
        "torch-cpu",
        "torch-mps",
        "mlx",
        "coreml-reference-fp32",
        "coreml-reference-fp16",
    ]
    units = [step.model for step in evals[5:]]
    assert units == [
        f"demo:vlm@coreml?units={unit}&precision={precision}"
        for unit in ("CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE", "ALL")
        for precision in ("fp32", "fp16")
    ]
    assert names(made)[:2] == ["eval vlm torch-cpu", "eval stt torch-cpu"] and len(made.steps) == 2 * 2 * 13
    assert [step.what for step in made.steps] == ["eval"] * 26 + ["capture"] * 26
    assert {each.name for each in made.not_here} == {"onnx", "tensorrt"}


def test_compute_units_are_those_of_the_backend():
    from workbench.backends.coreml import UNITS

    assert kit_plan.UNITS == UNITS


def test_elsewhere_core_ml_is_the_reference_alone_and_what_is_lacking_is_no_step():
    made = plan(LINUX)
    assert not any("units=" in step.model for step in made.steps)
    reference = {f"{runtime}-reference-{precision}" for runtime in ("coreml", "tensorrt") for precision in ("fp32", "fp16")}
    assert {step.variant for step in made.steps} == {"torch-cpu", "mlx", "onnx", *reference}
    assert {each.name for each in made.not_here} == {"a GPU for torch", "Core ML's compute units", "TensorRT's engines"}
    assert [each.fix for each in made.not_here if each.name == "TensorRT's engines"] == [NO_GPU.fix]
    here = Here({**LINUX.runtimes, "mlx": MISSING}, ("cuda",), lacking={("stt", "torch"): MISSING})
    made = plan(here)
    assert "torch-cuda" in {step.variant for step in made.steps} and "eval stt torch-cpu" not in names(made)
    assert [(each.name, each.fix) for each in made.not_here][:2] == [("mlx", "pip install x"), ("stt on torch", "pip install x")]


def test_an_nvidia_machine_builds_engines_beside_the_reference_reading_of_the_same_graphs():
    made = plan(NVIDIA, only=["tensorrt"])
    evals = [step.model for step in made.steps if step.what == "eval" and step.family == "vlm" and not step.is_reference]
    assert evals == [
        *(
            f"demo:vlm@tensorrt?executor={executor}&precision={each}"
            for executor in ("reference", "engine")
            for each in ("fp32", "fp16")
        ),
        "demo:vlm@tensorrt?executor=engine&precision=fp16&cuda_graph=true",
    ]
    assert "TensorRT's engines" not in {each.name for each in made.not_here}


def test_commands_are_those_a_person_would_type():
    first, second = (
        next(step for step in plan(LINUX).steps if step.name == name) for name in ("eval vlm torch-cpu", "eval vlm mlx")
    )
    assert first.shown(True) == "workbench eval demo --model 'demo:vlm@torch?device=cpu' --subset 50 --record tokens --record media"
    assert second.shown(True).endswith("--record tokens --follow 'demo:vlm@torch?device=cpu'")
    assert second.shown(False).endswith("--record tokens") and second.command(Path("r"), False)[-2:] == ["--runs", "r"]
    full = plan(LINUX, kit_plan.FULL)
    assert all("--subset" not in step.words for step in full.steps if step.what == "eval")
    assert plan(LINUX, {"vlm": 1, "stt": 1}).steps[-1].words[-1] == "1"


def test_only_and_skip_choose_and_the_reference_stays():
    made = plan(LINUX, only=["mlx"], skip=["capture", "stt"])
    assert names(made) == ["eval vlm torch-cpu", "eval vlm mlx"] and "eval stt mlx" in made.left_out
    assert names(plan(MAC, only=["coreml-ALL-fp16"], skip=["capture", "vlm"])) == ["eval stt torch-cpu", "eval stt coreml-ALL-fp16"]
    assert names(plan(LINUX, skip=["torch", "coreml", "onnx", "tensorrt", "capture"])) == ["eval vlm mlx", "eval stt mlx"]
    with pytest.raises(UsageError, match="no step of a kit here is called 'coreml-ALL-fp16'") as caught:
        plan(LINUX, skip=["coreml-ALL-fp16"])
    assert "torch-cpu" in caught.value.why
    with pytest.raises(UsageError, match="nothing to run"):
        plan(LINUX, skip=["vlm", "stt"])
    with pytest.raises(UsageError, match="nothing to run") as caught:
        plan(Here(dict.fromkeys(kit_plan.RUNTIMES, MISSING)))
    assert "mlx is not installed" in caught.value.why
