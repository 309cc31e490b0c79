"""The typed graphs that TensorRT would build of the bundled models, read as they are written: as near torch as torch itself in that type.

The vision-language model in fp16 here; both models in every type where ``WORKBENCH_WHOLE_TESTS`` is set (``make bench``).
"""

from __future__ import annotations

import os

import pytest

import workbench as wb
from tests.convert.onnx_models import converted_onnx
from workbench.models.converted import Converted

for name in ("torch", "onnx", "onnxruntime", "onnxscript", "transformers", "soundfile", "soxr"):
    pytest.importorskip(name, reason="pip install 'parity-workbench[torch,onnx,speech]'")

GRAPHS = [("vlm", "fp16")]
if os.environ.get("WORKBENCH_WHOLE_TESTS"):
    GRAPHS += [("vlm", "fp32"), ("vlm", "bf16"), ("vlm", "int8-qdq")]
    GRAPHS += [("stt", precision) for precision in ("fp32", "fp16", "bf16", "int8-qdq")]
"""A conversion of a bundled model takes 10 to 20 seconds."""


@pytest.mark.parametrize(("model", "precision"), GRAPHS)
def test_each_output_is_as_near_as_its_type_allows(model, precision):
    found = Converted(converted_onnx(f"demo:{model}", precision=precision))
    assert list(found.check) == list(found.stages)
    for name, entry in found.manifest["stages"].items():
        assert entry["types"]["int8" if precision == "int8-qdq" else precision] > 0
        for row in found.check[name]["outputs"].values():
            if precision in ("fp16", "bf16"):
                assert row["relative_l2"] <= 2 * row["own_error"] < 0.2
            elif precision == "fp32":
                assert row["relative_l2"] <= 1e-5
        if precision in ("fp16", "bf16"):
            assert "Softmax" in {row["op"] for row in entry["kept_fp32"]} and entry["types"]["fp32"] > 0


def test_half_precision_answers_as_torch(tmp_path):
    model = f"tensorrt:{converted_onnx('demo:vlm', precision='fp16')}?executor=reference"
    first, second = (wb.evaluate("mmstar-sample", each, runs=tmp_path, limit=8) for each in ("demo:vlm@torch", model))
    assert second.manifest["evidence"] == "reference" and second.results["item_errors"] == 0
    answers = second.items()
    same = [answers[name]["output"]["tokens"] == line["output"]["tokens"] for name, line in first.items().items()]
    assert len(same) == 8 and sum(same) >= 7
