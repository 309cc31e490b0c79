"""Model texts, requests and media: what users write and what runs are keyed by."""

import io

import pytest
from PIL import Image

from workbench.errors import ItemError, UsageError
from workbench.types import Generation, Media, ModelSpec, Output, Request


@pytest.mark.parametrize(
    ("text", "backend", "source", "revision", "options"),
    [
        ("demo:vlm@mlx", "mlx", "demo:vlm", None, {}),
        ("demo:vlm@mlx?blas=off", "mlx", "demo:vlm", None, {"blas": "off"}),
        ("torch:ORG/NAME", "torch", "ORG/NAME", None, {}),
        ("torch:ORG/NAME@v1.0?dtype=float16&batch-size=8", "torch", "ORG/NAME", "v1.0", {"dtype": "float16", "batch_size": "8"}),
        ("mlx:./some folder", "mlx", "./some folder", None, {}),
    ],
)
def test_model_texts(text, backend, source, revision, options):
    spec = ModelSpec.parse(text)
    assert (spec.backend, spec.source, spec.revision, dict(spec.options)) == (backend, source, revision, options)


@pytest.mark.parametrize("text", ["", "vlm", ":x", "torch:", "demo:vlm", "demo:vlm@", "torch:a/b?dtype", "torch:a/b?=1"])
def test_unreadable_model_texts_show_the_forms(text):
    with pytest.raises(UsageError) as caught:
        ModelSpec.parse(text)
    assert "demo:vlm@torch" in str(caught.value)


def test_a_folder_with_an_at_sign_is_no_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a@b").mkdir()
    assert ModelSpec.parse("torch:a@b").revision is None


def test_an_absolute_path_never_reaches_a_label(tmp_path):
    assert ModelSpec.parse(f"torch:{tmp_path}/model?dtype=float16").label == "torch:model?dtype=float16"
    assert ModelSpec.parse("torch:~/models/mine").label == "torch:mine"
    assert ModelSpec.parse("torch:./model").label == "torch:./model"


def png(colour):
    target = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(target, "PNG")
    return target.getvalue()


def test_a_request_is_known_by_its_text_images_and_prompt():
    def key(text="Q", colours=("red",), prompt="p1"):
        return Request({"text": text, "images": [Media(data=png(colour)) for colour in colours]}, prompt).input_hash

    assert key() == key()
    assert len({key(), key(text="R"), key(colours=("blue",)), key(colours=("red", "red")), key(prompt="p2")}) == 5


def test_media_by_path_and_by_bytes_are_the_same(tmp_path):
    (tmp_path / "a.png").write_bytes(png("red"))
    by_path, by_bytes = Media(path=tmp_path / "a.png"), Media(data=png("red"))
    assert by_path.sha256 == by_bytes.sha256
    assert by_path.image().tobytes() == by_bytes.image().tobytes()
    with pytest.raises(ItemError, match="cannot read image 'b.png'") as caught:
        Media(path=tmp_path / "b.png").image()
    assert caught.value.reason == "image" and str(tmp_path) not in str(caught.value)


def test_an_image_is_rgb_and_upright():
    target = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("L", (6, 2), 100).save(target, "JPEG", exif=exif)
    picture = Media(data=target.getvalue()).image()
    assert picture.size == (2, 6) and picture.mode == "RGB"


@pytest.mark.parametrize("settings", [{"max_tokens": 0}, {"temperature": -1.0}])
def test_impossible_generation_settings_are_refused(settings):
    with pytest.raises(UsageError):
        Generation(**settings)


def test_a_failed_output_says_why():
    error = Output.failed(ItemError("too large", reason="memory", fix="--batch-size 1")).error
    assert error == {"reason": "memory", "what": "too large", "why": None, "fix": "--batch-size 1"}
    assert Output.failed(KeyError("x")).error["what"] == "KeyError: 'x'"
