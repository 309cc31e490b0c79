"""Packages compressed by coremltools equal "decompress, then run" exactly, in every reading."""

from __future__ import annotations

import warnings
from functools import cache

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
import torch

from tests.mil.building import freeze_imports, opset
from workbench.mil import load
from workbench.mil.graph import walk
from workbench.mil.program import PRECISIONS

INPUTS = {
    "token": np.array([[3, 0, 95, 7, 8, 3, 61, 2]], np.int32),
    "x": np.random.default_rng(0).normal(size=(1, 16, 8)).astype(np.float32),
}


class Small(torch.nn.Module):
    """An embedding, two convolutions (one of 16 channels), a linear layer."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(96, 64)
        self.wide = torch.nn.Conv1d(64, 64, 3, padding=1)
        self.narrow = torch.nn.Conv1d(16, 64, 3, padding=1)
        self.linear = torch.nn.Linear(64, 96)

    def forward(self, token, x):
        hidden = self.embedding(token).transpose(1, 2)
        return self.linear(torch.relu(self.wide(hidden) + self.narrow(x)).transpose(1, 2))


@cache
def converted(since, precision="fp16", grid=None):
    """``grid``: weights rounded to so many steps, so that they have few distinct values."""
    torch.manual_seed(0)
    freeze_imports()
    model = Small().eval()
    if grid:
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_((weight * grid / weight.abs().max()).round() / grid)
    traced = torch.jit.trace(model, tuple(map(torch.from_numpy, INPUTS.values())))
    return ct.convert(
        traced,
        inputs=[ct.TensorType(name, value.shape, dtype=value.dtype.type) for name, value in INPUTS.items()],
        outputs=[ct.TensorType(name="logits")],
        minimum_deployment_target=opset(since),
        compute_precision=ct.precision.FLOAT16 if precision == "fp16" else ct.precision.FLOAT32,
        skip_model_load=True,
    )


def quantised(joint=False, **how):
    config = cto.OptimizationConfig(cto.OpLinearQuantizerConfig(weight_threshold=512, **how))
    return lambda model: cto.linear_quantize_weights(model, config, joint_compression=joint)


def palettised(joint=False, mode="uniform", **how):
    config = cto.OptimizationConfig(cto.OpPalettizerConfig(mode=mode, weight_threshold=512, **how))
    return lambda model: cto.palettize_weights(model, config, joint_compression=joint)


def pruned(**how):
    maker = cto.OpThresholdPrunerConfig if "threshold" in how else cto.OpMagnitudePrunerConfig
    config = cto.OptimizationConfig(maker(weight_threshold=512, **how))
    return lambda model: cto.prune_weights(model, config)


def both(first, second):
    return lambda model: second(first(model))


def nearest(weight):
    """A table of our own: 16 entries between the extremes."""
    table = np.linspace(weight.min(), weight.max(), 16, dtype=weight.dtype)
    return table, np.abs(weight.reshape(-1, 1) - table).argmin(1).astype(np.uint8)


SYMMETRIC, ASYMMETRIC = "linear_symmetric", "linear"
GROUPED = {"granularity": "per_grouped_channel", "group_size": 16}
SHIFT, TABLE, SPARSE = "blockwise_shift_scale", "lut_to_dense", "sparse_to_dense"

RECIPES = {
    "iOS18": {
        **{
            f"int8-{per}-{mode}": (quantised(dtype="int8", granularity=per, mode=mode), {SHIFT})
            for per in ("per_tensor", "per_channel")
            for mode in (SYMMETRIC, ASYMMETRIC)
        },
        **{
            f"{dtype}-{mode}": (quantised(dtype=dtype, mode=mode), {SHIFT})
            for dtype in ("uint8", "uint4")
            for mode in (SYMMETRIC, ASYMMETRIC)
        },
        **{
            f"int4-block32-{mode}": (quantised(dtype="int4", granularity="per_block", block_size=32, mode=mode), {SHIFT})
            for mode in (SYMMETRIC, ASYMMETRIC)
        },
        "uint4-block8": (quantised(dtype="uint4", granularity="per_block", block_size=8, mode=ASYMMETRIC), {SHIFT}),
        **{f"palette{bits}": (palettised(nbits=bits), {TABLE}) for bits in (1, 2, 3, 4, 6, 8)},
        "palette4-kmeans": (palettised(mode="kmeans", nbits=4), {TABLE}),
        "palette-own": (palettised(mode="custom", lut_function=nearest), {TABLE}),
        "palette4-grouped": (palettised(nbits=4, **GROUPED), {TABLE}),
        "palette4-scaled": (palettised(nbits=4, enable_per_channel_scale=True, **GROUPED), {TABLE, SHIFT}),
        "palette4-vector": (palettised(mode="kmeans", nbits=4, cluster_dim=2), {TABLE}),
        "palette2-vector-grouped": (palettised(mode="kmeans", nbits=2, cluster_dim=4, **GROUPED), {TABLE}),
        "pruned-threshold": (pruned(threshold=0.05, minimum_sparsity_percentile=0.1), {SPARSE}),
        "pruned-half": (pruned(target_sparsity=0.5), {SPARSE}),
        "pruned-n-of-m": (pruned(n_m_ratio=(2, 4)), {SPARSE}),
        "palette4-int8": (
            both(palettised(nbits=4, **GROUPED), quantised(True, dtype="int8", granularity="per_tensor")),
            {TABLE, SHIFT},
        ),
        "int8-palette4": (both(quantised(dtype="int8"), palettised(True, nbits=4)), {TABLE, SHIFT}),
        "pruned-palette4": (both(pruned(target_sparsity=0.5), palettised(True, nbits=4)), {SPARSE, "lut_to_sparse"}),
        "pruned-palette4-grouped": (
            both(pruned(target_sparsity=0.5), palettised(True, nbits=4, **GROUPED)),
            {SPARSE, "lut_to_sparse"},
        ),
        "pruned-int8": (both(pruned(target_sparsity=0.5), quantised(True, dtype="int8")), {SPARSE, "sparse_blockwise_shift_scale"}),
        "pruned-int4": (
            both(pruned(target_sparsity=0.5), quantised(True, dtype="int4", granularity="per_block", block_size=32)),
            {SPARSE, "sparse_blockwise_shift_scale"},
        ),
    },
    "iOS16": {
        **{
            f"{dtype}-{per}-{mode}": (quantised(dtype=dtype, granularity=per, mode=mode), {"affine_dequantize"})
            for dtype, per, mode in (
                ("int8", "per_tensor", SYMMETRIC),
                ("int8", "per_channel", ASYMMETRIC),
                ("uint8", "per_channel", SYMMETRIC),
            )
        },
        **{f"palette{bits}": (palettised(nbits=bits), {TABLE}) for bits in (1, 2, 4, 6, 8)},
        "pruned-half": (pruned(target_sparsity=0.5), {SPARSE}),
    },
}
IN_FP32 = (
    "int8-per_channel-linear",
    "int4-block32-linear",
    "palette4-grouped",
    "palette4-vector",
    "palette4-int8",
    "pruned-palette4",
    "pruned-int8",
)
CASES = [(since, "fp16", name) for since, recipes in RECIPES.items() for name in recipes]
CASES += [("iOS18", "fp32", name) for name in IN_FP32] + [
    ("iOS16", "fp32", name) for name in ("int8-per_channel-linear", "palette6", "pruned-half")
]


def saved(model, path):
    model.save(str(path))
    return path


def constexprs(program):
    return {op.type.removeprefix("constexpr_") for op in walk(program.function.block) if op.type.startswith("constexpr_")}


def assert_equal_after_decompression(model, folder, inputs, wanted_ops):
    """The compressed package holds these ops, and gives what its decompressed twin, which has none, gives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dense = saved(cto.decompress_weights(model), folder / "dense.mlpackage")
    small = saved(model, folder / "small.mlpackage")
    for precision in PRECISIONS:
        one, other = load(small, precision=precision), load(dense, precision=precision)
        assert constexprs(one) == wanted_ops and not constexprs(other)
        for found, wanted in zip(one.predict(inputs).values(), other.predict(inputs).values(), strict=True):
            assert np.isfinite(wanted).all() and wanted.any()
            np.testing.assert_array_equal(found, wanted, err_msg=precision)


@pytest.mark.parametrize(("since", "precision", "name"), CASES, ids=["-".join(case) for case in CASES])
def test_equals_decompressed(since, precision, name, tmp_path):
    compress, ops = RECIPES[since][name]
    assert_equal_after_decompression(compress(converted(since, precision)), tmp_path, INPUTS, ops)


@pytest.mark.parametrize("since", ["iOS16", "iOS18"])
def test_palette_of_few_distinct_values_loses_nothing(since, tmp_path):
    model = converted(since, grid=7)
    small = palettised(mode="unique")(model)
    assert_equal_after_decompression(small, tmp_path, INPUTS, {TABLE})
    plain = load(saved(model, tmp_path / "plain.mlpackage")).predict(INPUTS)
    for found, wanted in zip(load(tmp_path / "small.mlpackage").predict(INPUTS).values(), plain.values(), strict=True):
        np.testing.assert_array_equal(found, wanted)
