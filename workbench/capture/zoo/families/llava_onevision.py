"""LLaVA-OneVision: a SigLIP tower, two linear layers, and Qwen 2. Tiles as in LLaVA-NeXT, but on grids up to 6 by 6, and where the tiles
hold more than nine tiles' features those are shrunk bilinearly. A video's frames are pooled. Several images are each cut into tiles, as
transformers' processor does with a list of images and mlx-vlm's always; only a list of lists (transformers' chat template) leaves them whole."""

from workbench.capture.zoo.family import Case, Family, pixels, prompt, text_arrays

IMAGE, VIDEO = 5, 6
SIDE, PATCHES = 56, 4
GRIDS = [[SIDE * rows, SIDE * columns] for rows in range(1, 7) for columns in range(1, 7)]


def config():
    from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

    return LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=14,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            vocab_size=1000,
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            rope_parameters={"rope_type": "default", "rope_theta": 900000.0},
            tie_word_embeddings=True,
        ),
        image_grid_pinpoints=GRIDS,
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        tie_word_embeddings=True,
    )


def tiled(random, *sizes):
    """(arrays, the image's tokens for each) of images with these sizes (height, width), as transformers' processor makes them."""
    import numpy
    from transformers import LlavaOnevisionProcessor
    from transformers.image_processing_utils import select_best_resolution

    class Processor:
        vision_aspect_ratio = "anyres_max_9"

    grids = [[each // SIDE for each in select_best_resolution(size, GRIDS)] for size in sizes]
    most = max(rows * columns for rows, columns in grids) + 1
    values = pixels(random, len(sizes), most, 3, SIDE, SIDE)
    tokens = []
    for image, size, (rows, columns) in zip(values, sizes, grids, strict=True):
        image[rows * columns + 1 :] = 0
        rest = LlavaOnevisionProcessor._get_unpadded_features(Processor, *size, PATCHES, PATCHES, rows, columns)
        tokens.append([IMAGE] * (PATCHES**2 + sum(rest)))
    return {"pixel_values": values, "image_sizes": numpy.array(sizes)}, tokens


def cases(config, random):
    for name, size, before, after in (
        ("wide, image first", (50, 150), 0, 9),
        ("tall, image last", (150, 70), 9, 1),
        ("twelve tiles, shrunk", (210, 160), 4, 6),
    ):
        arrays, (image,) = tiled(random, size)
        yield Case(name, text_arrays(prompt(random, [before, image, after], 10, 1000)) | arrays)
    arrays, (first, second) = tiled(random, (110, 90), (40, 160))
    yield Case("two images, tiled", text_arrays(prompt(random, [3, first, 4, second, 5], 10, 1000)) | arrays)
    video = [VIDEO] * (3 * (PATCHES // 2) ** 2 + 1)
    arrays = {"pixel_values_videos": pixels(random, 1, 3, 3, SIDE, SIDE)}
    yield Case("a video", text_arrays(prompt(random, [3, video, 5], 10, 1000)) | arrays)
    yield Case("text alone", text_arrays(prompt(random, [20], 10, 1000)))


FAMILY = Family(
    "llava_onevision",
    "LLaVA-OneVision: SigLIP, two linear layers, Qwen 2; tiles, video",
    config,
    cases,
    note="not several images left whole: neither mlx-vlm's processor nor a plain list of images asks for that",
)
