"""The settings files of image and video processors that older readers look for.

transformers 5 saves a processor as one processor_config.json with ``image_processor`` and ``video_processor`` within; published
checkpoints have preprocessor_config.json and video_preprocessor_config.json beside it, and ports read those::

    older_files(saved)   # {"preprocessor_config.json": {"image_processor_type": "CLIPImageProcessor", "size": {...}, ...}}
"""

from __future__ import annotations

import json
from typing import Any

from workbench.convert.saved import Saved

PARTS = {"image_processor": "preprocessor_config.json", "video_processor": "video_preprocessor_config.json"}


def older_files(saved: Saved) -> dict[str, Any]:
    """Names and contents of the files that the folder lacks; the processor's own file stays as it is, and transformers prefers it."""
    if "processor_config.json" not in saved.files:
        return {}
    try:
        processor = json.loads((saved.folder / "processor_config.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(processor, dict):
        return {}
    whole = {"processor_class": processor["processor_class"]} if "processor_class" in processor else {}
    return {
        file: {**whole, **processor[part]}
        for part, file in PARTS.items()
        if isinstance(processor.get(part), dict) and file not in saved.files
    }
