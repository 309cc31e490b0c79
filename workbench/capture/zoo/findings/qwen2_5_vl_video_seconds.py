"""mlx-vlm 0.7.10 counts a video's frames by ones for Qwen2.5-VL, where the model was trained to count them in time.

The temporal position of frame i is i * seconds a frame lasts * ``tokens_per_second`` (2 at the usual 2 frames a second); the port never
reads ``second_per_grid_ts``, and its processor does not make it. Questions about when something happens, and all text after a video, are
answered from other positions.
"""

from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


def in_seconds(model):
    import numpy
    from mlx import core

    kind = type(model)
    by_ones = kind.get_input_embeddings

    def embed(self, input_ids=None, pixel_values=None, **named):
        made = by_ones(self, input_ids, pixel_values, **named)
        seconds = named.get("second_per_grid_ts")
        if seconds is None:
            return made
        places = numpy.array(made.position_ids)
        tokens = numpy.array(input_ids)[0]
        settings = self.config.vision_config
        begin = 0
        for (frames, rows, columns), second in zip(named["video_grid_thw"].tolist(), seconds.tolist(), strict=True):
            begin += int(numpy.argmax(tokens[begin:] == self.config.video_token_id))
            each = rows * columns // settings.spatial_merge_size**2
            end = begin + frames * each
            last = places[:, 0, begin:end].max()
            steps = (numpy.arange(frames) * second * settings.tokens_per_second).astype(places.dtype)
            places[0, 0, begin:end] = places[0, 0, begin] + numpy.repeat(steps, each)
            places[:, 0, end:] += places[:, 0, begin:end].max() - last
            begin = end
        made.position_ids = core.array(places)
        return made

    return patch.object(kind, "get_input_embeddings", embed)


FINDING = Finding(
    "qwen2-5-vl-video-seconds",
    ("qwen2_5_vl_video",),
    "port",
    "second_per_grid_ts is ignored; the patch spaces a video's frames by it and moves what follows",
    "mlx_vlm/models/qwen2_5_vl/language.py: LanguageModel.get_rope_index",
    in_seconds,
    layouts=("hub",),
)
