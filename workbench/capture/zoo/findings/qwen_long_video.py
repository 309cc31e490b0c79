"""transformers 5.23 lets the text after a long video begin at a position that the video's later frames already have.

Qwen2-VL's M-RoPE goes on at the largest position so far plus one (section 2.1 of its paper; transformers 4 and the docstring of its pull
request 35569). transformers 5 goes on after the larger of a frame's rows and columns instead, and forgets time: a video with more steps in
time than rows and columns overlaps the text after it. The port still does what the paper says.
"""

from itertools import groupby
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


def after_the_largest(model):
    inner = type(model.model)
    overlapping = inner.get_rope_index

    def places_of(self, input_ids, mm_token_type_ids, *arguments, **named):
        places, _ = overlapping(self, input_ids, mm_token_type_ids, *arguments, **named)
        for row, kinds in enumerate(mm_token_type_ids.tolist()):
            end = 0
            for kind, run in groupby(kinds):
                begin, end = end, end + len(list(run))
                if kind and end < len(kinds):
                    places[:, row, end:] += places[:, row, begin:end].max() + 1 - places[0, row, end]
        return places, places.amax(dim=(0, 2))[:, None] + 1 - input_ids.shape[1]

    return patch.object(inner, "get_rope_index", places_of)


FINDING = Finding(
    "qwen-long-video",
    ("qwen2_vl_video", "qwen2_5_vl_video"),
    "reference",
    "after a video the positions ignore its length in time; the patch goes on at the largest position plus one",
    "transformers/models/qwen2_vl/modeling_qwen2_vl.py and qwen2_5_vl: Model.get_rope_index",
    after_the_largest,
    layouts=("hub",),
)
