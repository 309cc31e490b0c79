"""Pictures in and out, and classifiers: the same pixels give torch's label and probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.mil.whole.comparing import FP32, TIMES_HALF, convert, relative
from workbench.mil import InputError, load

SCALE, BIAS = 1 / 127.5, [-0.9, -1.0, -1.1]


class Classifier(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 12, 5, stride=3)
        self.second = nn.Conv2d(12, 24, 3, stride=2)
        self.head = nn.Linear(24, 4)

    def scores(self, image):
        found = torch.relu(self.second(torch.relu(self.first(image))))
        return self.head(found.mean((2, 3)) * 20)

    def forward(self, image):
        return self.scores(image).softmax(-1)


def pixels(channels: int, seed: int = 0) -> np.ndarray:
    """[40, 56, channels], uint8: smooth shades, so that a swap of sides or colours is seen."""
    random = np.random.default_rng(seed)
    down, across = np.mgrid[0:40, 0:56]
    shades = [down * random.uniform(0, 4) + across * random.uniform(0, 2) + 20 * random.standard_normal((40, 56)) for _ in range(3)]
    return np.clip(np.stack(shades[:channels], -1), 0, 255).astype(np.uint8)


def prepared(picture: np.ndarray, colour: str) -> torch.Tensor:
    """What the model sees of a picture (RGB or one shade): [1, channels, height, width], scaled, then moved."""
    array = picture[..., ::-1] if colour == "BGR" else picture
    bias = np.array(BIAS if colour != "GRAYSCALE" else BIAS[:1])
    return torch.from_numpy((array.astype(np.float64) * SCALE + bias).transpose(2, 0, 1)[None].copy())


def described(colour: str, channels: int) -> Any:
    bias = BIAS if channels == 3 else BIAS[0]
    return ct.ImageType(
        "picture", shape=(1, channels, 40, 56), scale=SCALE, bias=bias, color_layout=getattr(ct.colorlayout, colour)
    )


@pytest.mark.parametrize("labels", [["ant", "bee", "crow", "dog"], [10, 20, 30, 40]], ids=["words", "numbers"])
@pytest.mark.parametrize("colour", ["RGB", "BGR", "GRAYSCALE"])
def test_a_classifier_of_pictures(tmp_path: Path, colour: str, labels: list[Any]) -> None:
    channels = 1 if colour == "GRAYSCALE" else 3
    torch.manual_seed(0)
    model = Classifier(channels).eval()
    with torch.no_grad():  # around what these pictures give, so that they are of several classes
        model.head.bias -= torch.cat([model.scores(prepared(pixels(channels, seed), colour).float()) for seed in range(4)]).mean(0)
    options = {"inputs": [described(colour, channels)], "classifier_config": ct.ClassifierConfig(labels)}
    example = [torch.zeros(1, channels, 40, 56)]
    seen = set()
    for half in (False, True):
        program = load(convert(model, example, tmp_path / f"{half}.mlpackage", half=half, **options))
        for seed in range(4):
            picture = pixels(channels, seed)
            with torch.inference_mode():
                exact, plain = (
                    model.to(dtype)(prepared(picture, colour).to(dtype)).double().numpy()[0]
                    for dtype in (torch.float64, torch.float16 if half else torch.float32)
                )
            model.float()
            given = Image.fromarray(picture if channels == 3 else picture[..., 0])
            found = program.predict({"picture": given})
            label, probabilities = (found[feature.name] for feature in program.outputs)
            assert list(probabilities) == labels
            assert label == labels[int(np.argmax(list(probabilities.values())))] == labels[int(exact.argmax())]
            values, own = list(probabilities.values()), relative([plain], [exact])
            assert relative([values], [exact if half else plain]) <= (TIMES_HALF * own if half else max(FP32, 2 * own))
            again = program.predict({"picture": picture})  # the same as an array [height, width, channels] of uint8
            assert [again[feature.name] for feature in program.outputs] == [label, probabilities]
            seen.add(label)
    assert len(seen) > 1, "pictures of one class only would prove little"


class Recoloured(nn.Module):
    """Red, green and blue mixed anew: brighter than white here and there, and darker than black."""

    def forward(self, image):
        mixed = torch.stack([1.8 * image[:, 0] - 30, image[:, 2] * 0.5, image[:, 1] + 10.3], 1)
        return mixed


@pytest.mark.parametrize("colour", ["RGB", "BGR"])
def test_a_picture_as_output(tmp_path: Path, colour: str) -> None:
    """An output is rounded, cut to 0 to 255, and in the order of colours that it declares; the input here is RGB."""
    given = ct.ImageType("picture", shape=(1, 3, 40, 56), color_layout=ct.colorlayout.RGB)
    made = ct.ImageType("made", color_layout=getattr(ct.colorlayout, colour))
    path = convert(Recoloured(), [torch.zeros(1, 3, 40, 56)], tmp_path / "p.mlpackage", inputs=[given], outputs=[made])
    picture = pixels(3)
    found = load(path).predict({"picture": Image.fromarray(picture)})["made"]
    assert isinstance(found, Image.Image) and found.mode == "RGB" and found.size == (56, 40)
    red, green, blue = np.moveaxis(picture.astype(np.float32), -1, 0)
    wanted = np.clip(np.rint(np.stack([1.8 * red - 30, blue * 0.5, green + 10.3], -1)), 0, 255)
    assert (wanted == 0).any() and (wanted == 255).any()
    np.testing.assert_array_equal(np.asarray(found), wanted[..., :: -1 if colour == "BGR" else 1])


def test_a_shade_as_output_and_a_picture_of_half_precision(tmp_path: Path) -> None:
    given = ct.ImageType("picture", shape=(1, 1, 40, 56), color_layout=ct.colorlayout.GRAYSCALE_FLOAT16)
    made = ct.ImageType("made", color_layout=ct.colorlayout.GRAYSCALE_FLOAT16)
    path = convert(
        nn.Hardtanh(-5.0, 90.0), [torch.zeros(1, 1, 40, 56)], tmp_path / "p.mlpackage", half=True, inputs=[given], outputs=[made]
    )
    picture = (np.random.default_rng(0).standard_normal((40, 56)) * 80).astype(np.float16).astype(np.float32)
    found = load(path).predict({"picture": Image.fromarray(picture)})["made"]
    assert found.mode == "F"
    np.testing.assert_array_equal(np.asarray(found), np.clip(picture, -5, 90))


def test_pictures_of_several_sizes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(3, 2, 3, padding=1).eval()
    sizes = ct.EnumeratedShapes(shapes=[(1, 3, 40, 56), (1, 3, 24, 32)])
    given = ct.ImageType("picture", shape=sizes, color_layout=ct.colorlayout.RGB)
    program = load(convert(model, [torch.zeros(1, 3, 40, 56)], tmp_path / "p.mlpackage", inputs=[given]))
    for height, width in ((40, 56), (24, 32), (40, 56)):
        picture = pixels(3)[:height, :width]
        (found,) = program.predict({"picture": Image.fromarray(picture)}).values()
        with torch.inference_mode():
            wanted = model(torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1)[None])
        assert relative([found], [wanted]) <= FP32
    with pytest.raises(InputError, match="picture"):
        program.predict({"picture": Image.fromarray(pixels(3)[:24, :30])})
    with pytest.raises(InputError, match="mode L"):
        program.predict({"picture": Image.fromarray(pixels(1)[..., 0])})
