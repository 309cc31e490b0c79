"""mlx-vlm 0.7.10 does not look at the video of a prompt for GLM-4.1V or GLM-4.5V.

``processing.py`` can expand a video's token, but ``from_pretrained`` gives it no video processor: it drops videos without a word and leaves one
``<|video|>`` in the prompt. Given what transformers' processor makes (a block of image tokens a frame, ``pixel_values_videos``), no code of
the model reads that name, and its positions look for the grid of an image that is not there: ``TypeError: 'NoneType' object is not
subscriptable``. Failing aloud, then, and no wrong answer.
"""

from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


def frames_as_images(model):
    from mlx import core

    kind = type(model)
    images_alone = kind.get_input_embeddings

    def embed(self, input_ids=None, pixel_values=None, **named):
        frames = named.pop("pixel_values_videos", None)
        if pixel_values is None and frames is not None:
            pixel_values = frames
            grids = [[1, rows, columns] for times, rows, columns in named.pop("video_grid_thw").tolist() for _ in range(times)]
            named["image_grid_thw"] = core.array(grids)
        return images_alone(self, input_ids, pixel_values, **named)

    return patch.object(kind, "get_input_embeddings", embed)


FINDING = Finding(
    "glm4v-video",
    ("glm4v_video", "glm4v_moe_video"),
    "port",
    "a video is never encoded; the patch takes its frames as images",
    "mlx_vlm/models/glm4v/glm4v.py and glm4v_moe/glm4v_moe.py: Model.get_input_embeddings",
    frames_as_images,
)
