"""Compressed weights where they are read twice, inside a loop, in several functions; and damaged ones."""

from __future__ import annotations

from collections import Counter

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from tests.mil.test_compressed import (
    INPUTS,
    RECIPES,
    assert_equal_after_decompression,
    converted,
    opset,
    palettised,
    quantised,
    saved,
)
from workbench.mil import ExecutionError, load
from workbench.mil.graph import walk
from workbench.mil.ops import constexpr

WEIGHT = np.random.default_rng(1).normal(size=(48, 48)).astype(np.float32) / 8


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(96, 64)
        self.head = torch.nn.Linear(64, 96, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, token):
        return self.head(torch.relu(self.embedding(token)))


def test_a_weight_read_by_two_ops(tmp_path):
    token = {"token": INPUTS["token"]}
    torch.manual_seed(0)
    model = ct.convert(
        torch.jit.trace(Tied().eval(), torch.from_numpy(token["token"])),
        inputs=[ct.TensorType("token", (1, 8), dtype=np.int32)],
        outputs=[ct.TensorType(name="logits")],
        minimum_deployment_target=opset("iOS18"),
        skip_model_load=True,
    )
    model = quantised(dtype="int4", granularity="per_block", block_size=32)(model)
    assert_equal_after_decompression(model, tmp_path, token, {"blockwise_shift_scale"})
    block = load(tmp_path / "small.mlpackage").function.block
    (made,) = [op.outputs[0][0] for op in block.ops if op.type == "constexpr_blockwise_shift_scale"]
    assert {op.type for op in block.ops if made in op.references()} == {"gather", "linear"}


@pytest.mark.parametrize(
    "compress", [quantised(dtype="int4", granularity="per_block", block_size=16), palettised(nbits=3)], ids=["int4", "palette3"]
)
def test_a_weight_inside_a_loop(compress, tmp_path):
    def build(x):
        def one_round(n, value):
            return mb.add(x=n, y=np.int32(1)), mb.tanh(x=mb.linear(x=value, weight=mb.const(val=WEIGHT)))

        return mb.while_loop(_cond=lambda n, value: mb.less(x=n, y=np.int32(3)), _body=one_round, loop_vars=(np.int32(0), x))

    x = {"x": np.random.default_rng(2).normal(size=(2, 48)).astype(np.float32)}
    model = compress(ct.models.MLModel(str(save(build, x, tmp_path, since="iOS18")), skip_model_load=True))
    (op,) = {op.type.removeprefix("constexpr_") for op in walk(main_block(model, tmp_path)) if op.type.startswith("constexpr_")}
    assert_equal_after_decompression(model, tmp_path, x, {op})
    loop = next(op for op in main_block(model, tmp_path).ops if op.type == "while_loop")
    assert any(inner.type == f"constexpr_{op}" for inner in loop.blocks[1].ops), "it lies in the loop's own block"


def main_block(model, folder):
    return load(saved(model, folder / "again.mlpackage")).function.block


def test_functions_of_one_package(tmp_path):
    names = ("int4-block32-linear", "pruned-palette4")
    descriptor = ct.utils.MultiFunctionDescriptor()
    for name in names:
        path = saved(RECIPES["iOS18"][name][0](converted("iOS18")), tmp_path / f"{name}.mlpackage")
        descriptor.add_function(str(path), src_function_name="main", target_function_name=name.replace("-", "_"))
    descriptor.default_function_name = names[0].replace("-", "_")
    ct.utils.save_multifunction(descriptor, str(tmp_path / "all.mlpackage"))
    for name in names:
        one, other = load(tmp_path / "all.mlpackage", name.replace("-", "_")), load(tmp_path / f"{name}.mlpackage")
        assert any(op.type.startswith("constexpr_") for op in one.function.block.ops)
        for found, wanted in zip(one.predict(INPUTS).values(), other.predict(INPUTS).values(), strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_decompressed_once_at_load_and_never_in_a_prediction(tmp_path, monkeypatch):
    calls = Counter()
    unpack = constexpr.unpack
    monkeypatch.setattr(constexpr, "unpack", lambda *given: (calls.update(["unpack"]), unpack(*given))[1])
    program = load(saved(palettised(nbits=4)(converted("iOS16")), tmp_path / "a.mlpackage"))
    weights = sum(op.type == "constexpr_lut_to_dense" for op in program.function.block.ops)
    seen = []
    for _ in range(2):
        program.predict(INPUTS)
    program.observe(INPUTS, lambda op, results: seen.append(op.type))
    assert weights == 4 and calls["unpack"] == 4
    assert "conv" in seen and not any(name.startswith("constexpr_") for name in seen)


def test_damaged_weights_are_refused(tmp_path):
    """coremltools refuses to build such programs, so the handlers are given them directly."""
    mask = torch.tensor([1, 0, 1, 1], dtype=torch.uint8)
    with pytest.raises(ValueError, match="3 ones, there are 2 values"):
        constexpr.sparse_to_dense(torch.ones(2), mask)
    with pytest.raises(ValueError, match="an index is 5, a table has 4 entries"):
        constexpr.lut_to_dense(torch.tensor([[0, 5], [1, 2]], dtype=torch.uint8), torch.ones(2, 1, 4, 1))
    with pytest.raises(ValueError, match="an index is 3, a table has 2 entries"):
        constexpr.lut_to_dense(mask * 3, torch.ones(1, 2, 1))
    with pytest.raises(ValueError, match="1,000,000,000,000 values of 4 bits are declared, 4 bytes are stored"):
        constexpr.packed_lut_to_dense(mask, torch.ones(16), (10**6, 10**6))
    with pytest.raises(ValueError, match="33 values of 1 bits are declared, 4 bytes are stored"):
        constexpr.packed_sparse_to_dense(torch.ones(3), mask, (33,))


def test_a_damaged_package_names_its_op(tmp_path):
    path = saved(RECIPES["iOS18"]["pruned-half"][0](converted("iOS18")), tmp_path / "a.mlpackage")
    program = load(path)
    (mask,) = next(op for op in program.function.block.ops if op.type == "constexpr_sparse_to_dense").inputs["mask"]
    file = path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    first, size = mask._file.locate(mask._offset, "uint1", int(np.prod(mask.type.shape)))
    data = bytearray(file.read_bytes())
    data[first : first + size] = bytes(size)
    file.write_bytes(data)
    with pytest.raises(ExecutionError, match=r"constexpr_sparse_to_dense") as caught:
        load(path).predict(INPUTS)
    assert "0 ones" in str(caught.value)
