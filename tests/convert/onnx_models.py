"""Models converted to ONNX through the real converter, made once for all tests and all their processes: only to be read.

    converted_onnx("demo:vlm")                                 # the artifact's folder
    converted_onnx("demo:stt", precision="fp16")
    copied = shutil.copytree(converted_onnx("demo:stt"), tmp_path / "stt")     # to be damaged

Kept where ``converted_models`` keeps those of Core ML.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.convert.converted_models import folder


def converted_onnx(model: str, **recipe: Any) -> Path:
    """The artifact of ``model``, by the fields of ``Recipe`` (fp32, a prompt's length varies, unless said otherwise)."""
    for library in ("torch", "transformers", "onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(library)
    from workbench.convert.cache import cached
    from workbench.convert.onnx.build import CONVERTER, with_samples
    from workbench.convert.onnx.recipe import Recipe
    from workbench.convert.subject import subject_of

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_CACHE", str(folder()))
        subject = subject_of(model)
        return cached(CONVERTER, subject, with_samples(subject, Recipe(**recipe).check()), lambda text: None).folder
