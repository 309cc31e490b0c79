"""Deliberately damaged copies of the demo model are reported for what they are, at the right rung. Real models, real runs."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace

import pytest

import workbench as wb
from workbench.locate import demo_model
from workbench.tasks.catalogue import load_task
from workbench.types import Media, Request

pytest.importorskip("torch", reason="needs torch (pip install 'parity-workbench[torch]')")

TASK, LIMIT = "ocrbench-sample", 40
SCALED = "language_model.model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def reference(runs):
    return wb.evaluate(TASK, "demo:vlm@torch", limit=LIMIT, runs=runs, record=["tokens"])


@pytest.fixture
def copy(tmp_path):
    """A copy of the demo model's folder."""
    return shutil.copytree(demo_model("vlm"), tmp_path / "copy")


def candidate_of(runs, reference, model, task=TASK, **options):
    return wb.compare(
        reference, wb.evaluate(task, model, limit=LIMIT, runs=runs, record=["tokens"], follow=[reference.folder], **options)
    )


def statuses(comparison):
    return {rung.number: rung.status for rung in comparison.rungs}


def test_an_undamaged_copy_is_the_same_on_every_rung(runs, reference, copy):
    found = candidate_of(runs, reference, f"torch:{copy}")
    assert statuses(found) == {1: "same", 2: "same", 3: "not run", 4: "same", 5: "same", 6: "information"}
    assert found.rung(4).facts["kl_mean"] == 0 and found.rung(4).facts["positions"] > LIMIT


def test_one_scaled_weight_is_named_at_rung_1(runs, reference, copy):
    from safetensors.numpy import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    weights[SCALED] = weights[SCALED] * 1.1
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    found = candidate_of(runs, reference, f"torch:{copy}")
    assert found.first_broken.number == 1
    assert f"1 of {len(weights)} weights has other values (root mean square × 1.1): {SCALED}" in found.first_broken.finding
    assert statuses(found)[2] == "same"
    assert statuses(found)[4] != "same" and found.rung(4).facts["kl_mean"] > 1e-7


def test_half_precision_is_the_same_files_read_otherwise(runs, reference):
    found = candidate_of(runs, reference, "demo:vlm@torch?dtype=bfloat16")
    assert found.first_broken.number == 1 and "computed in float32 and bfloat16" in found.first_broken.finding
    assert statuses(found)[2] == "same" and statuses(found)[4] in ("close", "different")


def test_four_bits_are_named_at_rung_1(runs, reference, copy):
    core = pytest.importorskip("mlx.core", reason="needs mlx (pip install 'parity-workbench[mlx]')")
    pytest.importorskip("mlx_vlm", reason="needs mlx-vlm (pip install 'parity-workbench[mlx]')")
    from mlx import nn
    from mlx.utils import tree_flatten
    from mlx_vlm.utils import load_model

    model = load_model(copy)
    nn.quantize(
        model,
        group_size=32,
        bits=4,
        class_predicate=lambda path, layer: path.startswith("language_model") and hasattr(layer, "to_quantized"),
    )
    (copy / "model.safetensors").unlink()
    core.save_safetensors(str(copy / "model.safetensors"), dict(tree_flatten(model.parameters())), metadata={"format": "mlx"})
    config = json.loads((copy / "config.json").read_text()) | {"quantization": {"group_size": 32, "bits": 4, "mode": "affine"}}
    (copy / "config.json").write_text(json.dumps(config))
    found = candidate_of(runs, reference, f"mlx:{copy}")
    assert found.first_broken.number == 1
    assert "4-bit, groups of 32" in found.first_broken.finding and "dequantised: 4-bit → float32" in found.first_broken.finding
    precisions = {row[0]: row[2] for row in found.rung(1).tables[-1].rows}
    packed = sum(name.endswith(".scales") for name, _ in tree_flatten(model.parameters()))
    assert precisions["4-bit, groups of 32"] == packed > 10
    assert statuses(found)[2] == "same" and found.rung(4).facts["kl_mean"] > 1e-5


def enlarged():
    """The sample task with its pictures at 160 x 160, so that the processor has to resize them."""

    def ask(sample):
        from PIL import Image

        request = inner.ask(sample)
        pictures = []
        for media in request.inputs["images"]:
            file = io.BytesIO()
            media.image().resize((160, 160), Image.Resampling.LANCZOS).save(file, "PNG")
            pictures.append(Media(data=file.getvalue()))
        return Request({**request.inputs, "images": pictures}, request.prompt_id)

    inner = load_task(TASK)
    return replace(inner, name="ocrbench-enlarged", ask=ask)


def test_a_wrong_resize_filter_is_named_at_rung_2(runs, copy):
    task = enlarged()
    reference = wb.evaluate(task, "demo:vlm@torch", limit=20, runs=runs, record=["tokens", "inputs"])
    path = copy / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"resample": 0}))
    candidate = wb.evaluate(task, f"torch:{copy}", limit=20, runs=runs, record=["tokens", "inputs"], follow=[reference.folder])
    found = wb.compare(reference, candidate)
    assert statuses(found)[1] == "same" and found.first_broken.number == 2
    finding = found.first_broken.finding
    assert "pixel_values on 20 of 20 items (largest difference" in finding and "resample 3 and 0" in finding
    assert found.first_broken.facts["largest_difference"]["pixel_values"]["max_abs"] > 0.1
    assert "prompt" not in found.first_broken.facts["items_differing"]


def test_shrunken_pictures_are_named_at_rung_2(runs, reference):
    found = candidate_of(runs, reference, "demo:vlm@torch?max_pixels=2304")
    assert found.first_broken.number == 2 and "max_pixels unset and 2304" in found.first_broken.finding
    assert f"pixel_values on {LIMIT} of {LIMIT} items" in found.first_broken.finding


def test_the_filter_does_not_matter_to_pictures_that_need_no_resizing(runs, reference, copy):
    path = copy / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"resample": 0}))
    rung = candidate_of(runs, reference, f"torch:{copy}").rung(2)
    assert rung.status == "same" and "preprocessing settings differ: they do not matter to these images" in rung.finding
    assert rung.tables[0].rows == [["preprocessor_config.json", "resample", 3, 0]]
