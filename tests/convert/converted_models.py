"""Models converted through the real converters, made once for all tests and all their processes: only to be read.

    converted("demo:vlm", stateful=True)                 # the artifact's folder
    converted("demo:stt", precision="fp16", quantize="int8")
    copied = shutil.copytree(converted("demo:stt"), tmp_path / "stt")     # to be damaged
    {**os.environ, "WORKBENCH_CACHE": str(folder())}     # a process that finds them, and leaves there what it converts

They are kept in the system's folder for temporary files under a hash of the converters' own code, so that no test ever sees what another
version of the code has made. Those of ONNX (``onnx_models``) lie beside those of Core ML.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

import workbench

CODE = (
    "backends/onnx.py",
    "backends/onnx_file.py",
    "convert/coreml",
    "convert/onnx",
    "convert/stages",
    "convert/building.py",
    "convert/comparing.py",
    "convert/drafts.py",
    "convert/feeds.py",
    "models/masks.py",
    "models/converted.py",
    "models/pretrained.py",
)
DAY = 86400.0


def converted(model: str, **recipe: Any) -> Path:
    """The artifact of ``model``, by the fields of ``Recipe`` (fp32, iOS18, without states unless said otherwise)."""
    pytest.importorskip("coremltools")
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from workbench.convert.cache import cached
    from workbench.convert.coreml.build import CONVERTER
    from workbench.convert.coreml.recipe import Recipe
    from workbench.convert.subject import subject_of

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_CACHE", str(folder()))
        return cached(CONVERTER, subject_of(model), Recipe(**recipe).check(), lambda text: None).folder


def folder() -> Path:
    """The folder of the converters' code as it is; those of other code that nobody used for a day are removed."""
    whole = hashlib.sha256()
    package = Path(workbench.__file__).parent
    for name in CODE:
        files = sorted((package / name).rglob("*.py")) if (package / name).is_dir() else [package / name]
        for path in files:
            whole.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    user = os.getuid() if hasattr(os, "getuid") else 0
    kept = Path(tempfile.gettempdir()) / f"workbench-converted-{user}"
    kept.mkdir(mode=0o700, exist_ok=True)
    here = kept / whole.hexdigest()[:16]
    here.mkdir(exist_ok=True)
    os.utime(here)
    for other in kept.iterdir():
        if other != here and time.time() - other.stat().st_mtime > DAY:
            shutil.rmtree(other, ignore_errors=True)
    return here
