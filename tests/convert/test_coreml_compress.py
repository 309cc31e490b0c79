"""Compression: what coremltools really did to every weight, read back without it; and damage that the report must show."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.convert.coreml_models import Part, asked, by_torch, converted, feed, language, nn, torch
from workbench.convert.coreml.compress import compress
from workbench.convert.coreml.exporting import quiet
from workbench.convert.coreml.multifunction import merge
from workbench.convert.coreml.programs import convert_stage
from workbench.convert.coreml.recipe import QUANTIZATIONS, Recipe
from workbench.convert.coreml.saving import save_package
from workbench.convert.coreml.sources import relative_l2
from workbench.convert.coreml.weights import left_alone, totals, weight_report
from workbench.convert.stages.stage import Stage
from workbench.errors import ModelError, UsageError
from workbench.mil import load

LARGE = {"p_head_weight", "const_28", "transpose_0", "transpose_1_1", "transpose_2_1"}
LARGE |= {f"p_blocks_{block}_attention_{part}_weight" for block in (0, 1) for part in ("query", "key", "value")}
"""The model's weights of more than 2,048 elements and two axes."""


def blob(path: Path) -> Path:
    return path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """``made("palette4")``: (compressed model, its package, the report's rows by name), of fp16, once."""
    known = {}

    def make(quantize, precision="fp16"):
        if (quantize, precision) not in known:
            found = asked(converted(precision), quantize)
            small = compress(found.mlmodel, found.recipe)
            path = save_package(small, tmp_path_factory.mktemp("compressed") / "main.mlpackage")
            known[quantize, precision] = small, path, {row["name"]: row for row in weight_report(path, None, found)}
        return known[quantize, precision]

    return make


AGAIN = """
import pathlib, sys
import coremltools
from workbench.convert.coreml.compress import compress
from workbench.convert.coreml.recipe import Recipe
from workbench.convert.coreml.saving import save_package
model = coremltools.models.MLModel(sys.argv[1], skip_model_load=True)
save_package(compress(model, Recipe(quantize="palette4")), pathlib.Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def elsewhere(made, tmp_path_factory):
    """Another process, with two threads for its sums, palettises the same package; started early, waited for late."""
    folder = tmp_path_factory.mktemp("elsewhere")
    dense = save_package(converted("fp32").mlmodel, folder / "dense.mlpackage")
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "11"}
    started = subprocess.Popen([sys.executable, "-c", AGAIN, str(dense), str(folder / "again.mlpackage")], env=environment)
    yield started, dense, folder / "again.mlpackage"
    started.kill()
    started.wait()


@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_what_was_compressed_and_how_far_it_is_from_torch(quantize, made, elsewhere):
    """Witness: coremltools' own decompression, its values against torch's parameters, and the ops of the saved file."""
    import coremltools.optimize.coreml as optimize

    small, path, rows = made(quantize)
    with quiet():
        dense = optimize.decompress_weights(small)
        held = {name: item.val for name, item in optimize.get_weights_metadata(dense, weight_threshold=9).items()}
    block = next(iter(small.get_spec().mlProgram.functions["main"].block_specializations.values()))
    stored = {op.outputs[0].name for op in block.operations if op.type.startswith("constexpr_")}
    compressed = {name for name, row in rows.items() if row["compressed"]}
    assert {name.replace("_to_fp16", "").rpartition("_")[0] for name in stored} == compressed
    assert compressed == LARGE - ({"const_28"} if quantize == "int4-block32" else set())
    named = {"p_" + name.replace(".", "_"): (name, value.detach().numpy()) for name, value in language().module.named_parameters()}
    checked = 0
    for name, row in rows.items():
        if row["how"] == "as it is" and row["parameter"] != "head.weight":
            parameter, value = named[name]
            (constant,) = [
                held[each] for each in held if each.removesuffix("_to_fp16") == name or each.startswith(f"{name}_to_fp16_")
            ]
            assert row["parameter"] == parameter and row["error"] == pytest.approx(relative_l2(constant, value), rel=1e-6)
            checked += 1
    assert checked > 12
    save_package(dense, path.parent / "dense.mlpackage")
    given = feed(8)
    for one, other in zip(
        load(path).predict(given).values(), load(path.parent / "dense.mlpackage").predict(given).values(), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    error = relative_l2(load(path).predict(given)["logits"], by_torch(language(), given)[0])
    assert 1e-3 < error < 0.9


def test_every_float_weight_is_a_row_and_nothing_asked_leaves_nothing_out(made):
    from coremltools.optimize.coreml import get_weights_metadata

    small, _, rows = made(None)
    with quiet():
        held = get_weights_metadata(small, weight_threshold=9)
    assert sorted(rows) == sorted(name.removesuffix("_to_fp16") for name, item in held.items() if item.val.dtype.kind == "f")
    assert all(row["why_not"] is None and not row["compressed"] and row["asked"] is None for row in rows.values())
    assert all(row["error"] < 5e-4 for row in rows.values() if row["error"] is not None)
    assert totals(list(rows.values())) == {
        "weights": len(rows),
        "compressed": 0,
        "left": 0,
        "stored_bytes": sum(2 * item.val.size for item in held.values() if item.val.dtype.kind == "f"),
        "dense_bytes": sum(2 * item.val.size for item in held.values() if item.val.dtype.kind == "f"),
        "reasons": {},
    }


def test_what_was_left_out_says_why(made):
    """Sixteen input channels have no blocks of 32: coremltools says so only in its log."""
    _, path, rows = made("int4-block32")
    (left,) = left_alone(list(rows.values()))
    assert (left["name"], left["asked"], left["compression"]) == ("const_28", "int4-block32", "none")
    assert left["why_not"] == "16 input channels are no multiple of the block of 32"
    assert rows["p_narrow_weight"]["why_not"] == "1,024 elements: not more than 2,048"
    assert rows["p_blocks_0_norm_bias"]["why_not"] == "a vector: coremltools compresses matrices and larger"
    counted = totals(list(rows.values()))
    assert (
        counted["compressed"] == len(LARGE) - 1
        and counted["left"] == sum(counted["reasons"].values()) == len(rows) - counted["compressed"]
    )
    assert not left_alone(list(made("int8")[2].values()))
    found = asked(converted("fp16"), "palette4")  # the same package, if palettes had been asked for
    reasons = {row["name"]: row["why_not"] for row in weight_report(path, None, found)}
    assert reasons["p_head_weight"] == "stored as int4-block32 instead"
    assert reasons["const_28"] == "coremltools left it as it is and gives no reason"


def test_which_parameter_each_weight_is(made):
    rows = made(None, "fp32")[2]
    head = rows["p_head_weight"]
    assert (head["parameter"], head["tied"], head["layer"]) == ("head.weight", ["embeddings.weight"], "text.embeddings")
    assert head["checkpoint"] == "model.embed.weight" and len(head["readers"]) == 2
    assert (rows["transpose_0"]["parameter"], rows["transpose_0"]["how"]) == ("blocks.0.attention.out", "transposed")
    assert rows["transpose_0"]["layer"] == "text.block.0.attention"
    assert (rows["transpose_2_1"]["parameter"], rows["transpose_2_1"]["how"]) == ("mixing", "computed")
    assert (rows["const_28"]["parameter"], rows["const_28"]["how"], rows["const_28"]["error"]) == (None, "folded", None)
    added = {name for name, row in rows.items() if row["how"] == "added by the converter"}
    assert "linear_2_bias_0" in added and all(rows[name]["error"] == 0 for name in added)
    assert {row["error"] for row in rows.values()} == {0.0, None}
    assert {row["dtype"] for row in rows.values()} == {"fp32"} != {row["dtype"] for row in made(None, "fp16")[2].values()}


def test_thirty_two_input_channels_are_one_block_and_as_asked(tmp_path):
    stage = Stage("main", nn.Linear(32, 80).eval(), {"x": torch.zeros(1, 32)}, ("y",))
    found = convert_stage(stage, Recipe(quantize="int4-block32"))
    path = save_package(compress(found.mlmodel, found.recipe), tmp_path / "main.mlpackage")
    (row,) = [row for row in weight_report(path, None, found) if row["parameter"] == "weight"]
    assert (row["compressed"], row["why_not"]) == (True, None) and row["words"].startswith("int4, a scale per channel")
    assert row["stored_bytes"] == 80 * 32 // 2 + 80 * 4 and 0.02 < row["error"] < 0.2


@pytest.mark.parametrize("name", ["p_blocks_1_attention_key_weight", "transpose_1_1", "transpose_2_1"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_transposed_weight_shows(name, precision, made, tmp_path):
    """Also one that is the transpose of its parameter when it is right, and one that is computed."""
    _, path, rows = made(None, precision)
    damaged = Path(shutil.copytree(path, tmp_path / "damaged.mlpackage"))
    found = converted(precision)
    value = found.sources[name].value.astype({"fp32": np.float32, "fp16": np.float16}[precision])
    content = blob(damaged).read_bytes()
    before, after = np.ascontiguousarray(value).tobytes(), np.ascontiguousarray(value.T).tobytes()
    assert content.count(before) == 1
    blob(damaged).write_bytes(content.replace(before, after))
    errors = {row["name"]: row["error"] for row in weight_report(damaged, None, found)}
    assert errors[name] == pytest.approx(relative_l2(value.T, value), rel=1e-3) and errors[name] > 1
    assert {key: error for key, error in errors.items() if key != name} == {
        key: row["error"] for key, row in rows.items() if key != name
    }


def test_a_weight_of_another_layer_shows(made, tmp_path):
    small, _, _ = made(None, "fp32")
    found = converted("fp32")
    one, other = (f"p_blocks_{number}_attention_value_weight" for number in (0, 1))
    path = save_package(small, tmp_path / "damaged.mlpackage")
    content, values = blob(path).read_bytes(), [found.sources[name].value.tobytes() for name in (one, other)]
    blob(path).write_bytes(content.replace(values[0], values[1]))
    errors = {row["name"]: row["error"] for row in weight_report(path, None, found)}
    assert errors[one] > 1 and errors[other] == 0


def test_the_same_bytes_again_and_in_another_process(made, elsewhere):
    found = converted("fp32")
    again = save_package(compress(found.mlmodel, Recipe(quantize="palette4")), elsewhere[1].parent / "here.mlpackage")
    assert sha(blob(again)) == sha(blob(made("palette4", "fp32")[1]))
    process, _, path = elsewhere
    assert process.wait(timeout=300) == 0
    assert sha(blob(path)) == sha(blob(made("palette4", "fp32")[1]))
    model = Path("Data") / "com.apple.CoreML" / "model.mlmodel"
    assert sha(path / model) == sha(made("palette4", "fp32")[1] / model)


@pytest.fixture(scope="module")
def parts():
    """Two stages over one layer, as prefill and step are, and one of its own."""
    torch.manual_seed(9)
    shared = nn.Linear(64, 64)
    stages = [Stage(f"part{n}", Part(shared, nn.Linear(64, 32 + n)).eval(), {"x": torch.zeros(1, 64)}, (f"y{n}",)) for n in (0, 1)]
    layers = {"shared": "text.block.0"}
    return [convert_stage(Stage(s.name, s.module, s.example, s.outputs, layers=layers), Recipe(quantize="int8")) for s in stages]


def test_functions_of_one_package_share_their_weights(parts, tmp_path):
    packages = {
        part.stage.name: save_package(compress(part.mlmodel, part.recipe), tmp_path / f"{part.stage.name}.mlpackage")
        for part in parts
    }
    found = merge(packages, tmp_path / "both.mlpackage")
    assert found.functions == ("part0", "part1")
    shared = 64 * 64 + 64 * 4 + 64 * 4  # the integers, a scale a channel, the bias
    own = sum((32 + n) * (64 * 4 if (32 + n) * 64 <= 2048 else 64 + 4) + (32 + n) * 4 for n in (0, 1))
    assert (found.shared_bytes, found.bytes, found.apart_bytes) == (shared, shared + own, 2 * shared + own)
    assert (
        blob(tmp_path / "both.mlpackage").stat().st_size < sum(blob(path).stat().st_size for path in packages.values()) - shared / 2
    )
    x = np.random.default_rng(1).normal(size=(1, 64)).astype(np.float32)
    for part in parts:
        name = part.stage.name
        settled = part.settle(tmp_path / "both.mlpackage", name)
        assert settled.origins == part.origins and settled.layers == {"text.block.0": part.layers["text.block.0"]}
        rows = {row["name"]: row for row in weight_report(tmp_path / "both.mlpackage", name, part)}
        assert rows["p_shared_weight"]["compression"] == "int8" and 0 < rows["p_shared_weight"]["error"] < 0.01
        alone, both = load(packages[name]), load(tmp_path / "both.mlpackage", name)
        np.testing.assert_array_equal(*(list(each.predict({"x": x}).values())[0] for each in (alone, both)))
    assert not (tmp_path / "both.mlpackage" / "executorch_debug_handle_mapping.json").exists()


def test_what_cannot_be_merged(parts, tmp_path):
    path = save_package(parts[0].mlmodel, tmp_path / "one.mlpackage")
    with pytest.raises(UsageError, match="1 packages are nothing to merge"):
        merge({"one": path}, tmp_path / "both.mlpackage")
    with pytest.raises(ModelError, match="cannot merge one, two"):
        merge({"one": path, "two": tmp_path / "none.mlpackage"}, tmp_path / "both.mlpackage")
    other = merge(
        {"one": path, "two": save_package(converted("fp32").mlmodel, tmp_path / "two.mlpackage")}, tmp_path / "both.mlpackage"
    )
    assert other.shared_bytes == 0 and 0 < other.bytes <= other.apart_bytes  # equal biases of one function are stored once


def test_a_large_weight_in_half_precision_is_pruned_too(tmp_path):
    """coremltools 9.0 alone leaves every value of it: numpy's percentile of 65,600 values in float16 is no number."""
    torch.manual_seed(3)
    stage = Stage("main", nn.Linear(320, 205, bias=False).eval(), {"x": torch.randn(1, 320)}, ("y",))
    found = asked(convert_stage(stage, Recipe(precision="fp16")), "prune50")
    path = save_package(compress(found.mlmodel, found.recipe), tmp_path / "main.mlpackage")
    row = next(each for each in weight_report(path, None, found) if each["parameter"] == "weight")
    kept = load(path).predict({"x": np.eye(1, 320, dtype=np.float32)})["y"]
    assert row["words"].startswith("50.0 %") and row["why_not"] is None and row["stored_bytes"] < 0.6 * row["dense_bytes"]
    weight = stage.module.weight.detach().half().float().numpy()
    small = np.abs(weight[:, 0]) <= np.median(np.abs(weight))
    np.testing.assert_array_equal(kept[0] == 0, small)
