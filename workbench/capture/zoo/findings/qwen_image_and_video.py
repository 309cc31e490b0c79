"""mlx-vlm 0.7.10 looks at the images alone when a prompt for Qwen2-VL or Qwen2.5-VL holds images and a video.

``get_input_embeddings`` takes ``pixel_values_videos`` only where there is no ``pixel_values``, and puts features at the image tokens only
where there are any. The video's tokens keep the embedding of ``<|video_pad|>``: the model is asked about a video it never sees, without a
word. (Qwen3-VL's file encodes both.)
"""

from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


def both(model):
    kind = type(model)
    images_alone = kind.get_input_embeddings

    def embed(self, input_ids=None, pixel_values=None, **named):
        made = images_alone(self, input_ids, pixel_values, **named)
        frames = named.get("pixel_values_videos")
        if pixel_values is not None and frames is not None:
            token = self.config.video_token_id
            features = self.vision_tower(frames, named["video_grid_thw"])
            made.inputs_embeds = self.merge_input_ids_with_image_features(token, token, features, made.inputs_embeds, input_ids)
        return made

    return patch.object(kind, "get_input_embeddings", embed)


FINDING = Finding(
    "qwen-image-and-video",
    ("qwen2_vl_video", "qwen2_5_vl_video"),
    "port",
    "a video beside images is never encoded; the patch encodes it and puts its features at its tokens",
    "mlx_vlm/models/qwen2_vl/qwen2_vl.py and qwen2_5_vl/qwen2_5_vl.py: Model.get_input_embeddings",
    both,
    layouts=("hub",),
)
