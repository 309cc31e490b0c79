"""A small model as a Core ML package, an ONNX graph and torch files, for the tests of programs and their twins.

Two outputs share a shape; the ONNX twin names them otherwise and puts them in the other order.
"""

import logging
import shutil
from pathlib import Path

import numpy
import torch

WIDTH, INNER = 12, 16
TOLERANCE = 2e-6


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(WIDTH, INNER)
        self.scores = torch.nn.Linear(INNER, 8)
        self.shares = torch.nn.Linear(INNER, 8)

    def forward(self, x):
        hidden = torch.nn.functional.gelu(self.first(x))
        return self.scores(hidden), self.shares(hidden).softmax(-1)


def make():
    return Net().eval()


def damaged():
    """One weight of the first layer is another."""
    model = make()
    with torch.no_grad():
        model.first.weight[3, 5] += 2
    return model


def weights():
    return {"weights": torch.ones(3)}


def exported(model=None):
    return torch.export.export(model or make(), (example(),)).run_decompositions({})


def example(seed=0):
    return torch.from_numpy(numpy.random.default_rng(seed).standard_normal((2, WIDTH)).astype(numpy.float32))


def package(path: Path, **more) -> Path:
    converted(**more).save(str(path))
    return path


def converted(*, half=False, source=None, **more):
    """From an exported program, or from ``source``."""
    import coremltools

    logging.getLogger("coremltools").setLevel(logging.ERROR)
    kind = coremltools.precision.FLOAT16 if half else coremltools.precision.FLOAT32
    return coremltools.convert(
        source if source is not None else exported(),
        convert_to="mlprogram",
        minimum_deployment_target=coremltools.target.iOS17,
        compute_precision=kind,
        skip_model_load=True,
        **more,
    )


def traced_package(path: Path, **more) -> Path:
    import coremltools

    inputs = [coremltools.TensorType(name="x", shape=(2, WIDTH))]
    return package(path, source=torch.jit.trace(make(), example()), inputs=inputs, **more)


def with_other_op(path: Path, target: Path, kind: str, name: str) -> Path:
    """A copy of a package in which every op of type ``kind`` is called ``name``."""
    from coremltools.proto import Model_pb2

    shutil.copytree(path, target)
    (file,) = target.rglob("*.mlmodel")
    spec = Model_pb2.Model.FromString(file.read_bytes())
    for function in spec.mlProgram.functions.values():
        for block in function.block_specializations.values():
            for op in block.operations:
                op.type = name if op.type == kind else op.type
    file.write_bytes(spec.SerializeToString())
    return target


def onnx_file(path: Path, model=None, *, names=("b", "a")) -> Path:
    """The model as ONNX, its inner values named as the exported program's nodes, its outputs (``names``: of the shares, of the scores)
    in the other order."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    state = {name: value.detach().numpy() for name, value in (model or make()).state_dict().items()}
    held = [numpy_helper.from_array(value, name) for name, value in state.items()]
    nodes = [
        helper.make_node("Gemm", ["x", "first.weight", "first.bias"], ["linear"], transB=1),
        helper.make_node("Gelu", ["linear"], ["gelu"]),
        helper.make_node("Gemm", ["gelu", "scores.weight", "scores.bias"], [names[1]], transB=1),
        helper.make_node("Gemm", ["gelu", "shares.weight", "shares.bias"], ["linear_2"], transB=1),
        helper.make_node("Softmax", ["linear_2"], [names[0]], axis=-1),
    ]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, WIDTH])]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 8]) for name in names]
    graph = helper.make_graph(nodes, "net", given, made, held)
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(file)
    onnx.save(file, path)
    return path


class Masked(torch.nn.Module):
    """Attention of one head over its own positions, with a causal mask of ``fill``."""

    def __init__(self, fill):
        super().__init__()
        torch.manual_seed(0)
        self.parts = torch.nn.Linear(WIDTH, 3 * WIDTH)
        self.register_buffer("mask", torch.full((4, 4), fill).triu(1))

    def forward(self, x):
        query, key, value = self.parts(x).chunk(3, -1)
        scores = query @ key.transpose(-1, -2) + self.mask
        return scores.softmax(-1) @ value


def masked_small():
    return Masked(torch.finfo(torch.float32).min).eval()


def masked_infinite():
    return Masked(float("-inf")).eval()
