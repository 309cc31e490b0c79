"""Images in and out: scale, bias and colour layout through real conversions, pictures and arrays, with and without Pillow."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import PIL.Image
import pytest
import torch
from coremltools.converters.mil import Builder as mb

from tests.mil.editing import edit
from tests.mil.interfaces import converted
from workbench.mil import ExecutionError, InputError, load

RANDOM = np.random.default_rng(0)
HEIGHT, WIDTH = 4, 6
RGB = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
GREY = RGB[..., 0].copy()
LAYOUTS = {
    "RGB": ct.colorlayout.RGB,
    "BGR": ct.colorlayout.BGR,
    "GRAYSCALE": ct.colorlayout.GRAYSCALE,
    "GRAYSCALE_FLOAT16": ct.colorlayout.GRAYSCALE_FLOAT16,
}


def image(colour: str, shape: Any = None, **options: Any) -> Any:
    channels = 3 if colour in ("RGB", "BGR") else 1
    return ct.ImageType("picture", shape or (1, channels, HEIGHT, WIDTH), color_layout=LAYOUTS[colour], **options)


def reader(folder: Path, colour: str, shape: Any = None, **options: Any) -> Path:
    """What the program receives, as it is."""
    return converted(
        lambda picture: mb.identity(x=picture, name="y"), {"picture": image(colour, shape, **options)}, folder, since="iOS16"
    )


def planes(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array.astype(np.float32), -1, 0)[None]


@pytest.mark.parametrize(("colour", "order"), [("RGB", [0, 1, 2]), ("BGR", [2, 1, 0])])
def test_colours_reach_the_program_scaled_and_in_order(colour: str, order: list[int], tmp_path: Path) -> None:
    """coremltools: the program sees image * scale + bias, a bias per channel of the layout."""
    bias = [-0.5, 0.25, 1.0]
    program = load(reader(tmp_path, colour, scale=1 / 127.5, bias=bias))
    assert str(program.inputs[0]) == f"picture: {colour} image fp32[1, 3, {HEIGHT}, {WIDTH}]"
    wanted = planes(RGB[..., order]) / 127.5 + np.array(bias, np.float32)[:, None, None]
    for given in (PIL.Image.fromarray(RGB), RGB, PIL.Image.fromarray(RGB).convert("RGBA"), RGB.copy(order="F")):
        np.testing.assert_allclose(program.predict({"picture": given})["y"], wanted, rtol=1e-6, atol=1e-6)


def test_arrays_in_the_form_of_the_program_are_taken_as_they_are(tmp_path: Path) -> None:
    program = load(reader(tmp_path, "BGR"))
    given = RANDOM.random((1, 3, HEIGHT, WIDTH), np.float32)
    np.testing.assert_array_equal(program.predict({"picture": given})["y"], given)
    with pytest.raises(InputError, match="2 NaN"):
        program.predict({"picture": np.where(given < np.sort(given, None)[2], np.nan, given)})


def test_grey(tmp_path: Path) -> None:
    program = load(reader(tmp_path, "GRAYSCALE", scale=2.0, bias=-1.0))
    for given in (PIL.Image.fromarray(GREY), GREY, GREY[..., None]):
        np.testing.assert_array_equal(program.predict({"picture": given})["y"], 2 * GREY[None, None].astype(np.float32) - 1)


def test_grey_in_half_precision(tmp_path: Path) -> None:
    program = load(reader(tmp_path, "GRAYSCALE_FLOAT16"))
    given = RANDOM.normal(size=(HEIGHT, WIDTH)).astype(np.float16).astype(np.float32)
    for form in (PIL.Image.fromarray(given), given, given.astype(np.float16)):
        np.testing.assert_array_equal(program.predict({"picture": form})["y"], given[None, None])


@pytest.mark.parametrize(
    ("colour", "given", "reason"),
    [
        ("RGB", PIL.Image.fromarray(GREY), "picture of mode L"),
        ("RGB", PIL.Image.fromarray(RGB).convert("CMYK"), "picture of mode CMYK"),
        ("RGB", PIL.Image.fromarray(RGB).convert("P"), "picture of mode P"),
        ("GRAYSCALE", PIL.Image.fromarray(RGB), "picture of mode RGB"),
        ("GRAYSCALE", PIL.Image.fromarray(GREY > 99), "picture of mode 1"),
        ("GRAYSCALE_FLOAT16", PIL.Image.fromarray(GREY), "picture of mode L"),
        ("RGB", PIL.Image.fromarray(RGB).resize((WIDTH, HEIGHT + 1)), f"picture of {WIDTH} by {HEIGHT + 1}"),
        ("RGB", np.transpose(RGB, (1, 0, 2)), f"picture of {HEIGHT} by {WIDTH}"),
        ("GRAYSCALE", GREY[:, :-1], f"picture of {WIDTH - 1} by {HEIGHT}"),
        ("RGB", GREY, "has the shape"),
        ("RGB", RGB[..., :2], "has the shape"),
        ("RGB", RGB[0, 0], "has the shape"),
        ("GRAYSCALE", RGB, "has the shape"),
        ("RGB", np.zeros((2, 3, HEIGHT, WIDTH), np.uint8), "has the shape"),
        ("RGB", RGB / 255.0, "picture of float64"),
        ("RGB", RGB.astype(np.int64), "picture of int64"),
        ("RGB", "picture.png", "input 'picture'"),
        ("RGB", [[["a"]]], "input 'picture'"),
    ],
)
def test_pictures_that_do_not_fit(colour: str, given: Any, reason: str, tmp_path: Path) -> None:
    program = load(reader(tmp_path, colour))
    with pytest.raises(InputError, match=reason) as caught:
        program.predict({"picture": given})
    assert "'picture'" in caught.value.what
    if "mode" in reason:
        assert "image.convert(" in str(caught.value.fix)


def test_a_picture_cut_off_in_its_file(tmp_path: Path) -> None:
    program, file = load(reader(tmp_path, "RGB", (1, 3, 64, 64))), io.BytesIO()
    PIL.Image.fromarray(RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "PNG")
    with pytest.raises(InputError, match="'picture' is a picture that cannot be read"):
        program.predict({"picture": PIL.Image.open(io.BytesIO(file.getvalue()[:2000]))})


def test_sizes_in_a_range(tmp_path: Path) -> None:
    program = load(reader(tmp_path, "RGB", ct.Shape((1, 3, ct.RangeDim(2, 8, default=4), ct.RangeDim(2, 10, default=6)))))
    assert str(program.inputs[0]) == "picture: RGB image fp32[1, 3, 2..8, 2..10]"
    for height, width in ((2, 10), (8, 2), (4, 6), (2, 10)):
        given = RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)
        np.testing.assert_array_equal(program.predict({"picture": given})["y"], planes(given))
    for height, width in ((9, 2), (2, 11), (1, 2)):
        with pytest.raises(InputError, match=f"picture of {width} by {height}"):
            program.predict({"picture": np.zeros((height, width, 3), np.uint8)})


def test_enumerated_sizes(tmp_path: Path) -> None:
    program = load(reader(tmp_path, "GRAYSCALE", ct.EnumeratedShapes([(1, 1, 2, 3), (1, 1, 4, 6)], default=(1, 1, 4, 6))))
    for shape in ((2, 3), (4, 6)):
        assert program.predict({"picture": np.zeros(shape, np.uint8)})["y"].shape == (1, 1, *shape)
    with pytest.raises(InputError, match="picture of 6 by 2"):
        program.predict({"picture": np.zeros((2, 6), np.uint8)})


# Out.


def writer(folder: Path, colour: str) -> Path:
    """The input as a picture. From torch (a ReLU that changes nothing): coremltools makes images of outputs in conversions from another framework only."""
    shape = (1, 3 if colour in ("RGB", "BGR") else 1, HEIGHT, WIDTH)
    model = ct.convert(
        torch.jit.trace(torch.nn.LeakyReLU(1.0), torch.zeros(shape)),
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS16,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
        inputs=[ct.TensorType("x", shape, np.float32)],
        outputs=[ct.ImageType("y", color_layout=LAYOUTS[colour])],
    )
    model.save(str(folder / "program.mlpackage"))
    return folder / "program.mlpackage"


@pytest.mark.parametrize(("colour", "order"), [("RGB", [0, 1, 2]), ("BGR", [2, 1, 0])])
def test_colours_come_back(colour: str, order: list[int], tmp_path: Path) -> None:
    program = load(writer(tmp_path, colour))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = program.predict({"x": planes(RGB[..., order])})["y"]
    assert found.mode == "RGB" and found.size == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(np.asarray(found), RGB)


def test_grey_comes_back_rounded_and_cut(tmp_path: Path) -> None:
    given = GREY[None, None].astype(np.float32)
    given[0, 0, 0] = [-3, 300, 12.4, 12.6, np.inf, np.nan]
    program = load(writer(tmp_path, "GRAYSCALE"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = program.predict({"x": given}, allow_nan=True)["y"]
    assert found.mode == "L"
    np.testing.assert_array_equal(np.asarray(found)[0], [0, 255, 12, 13, 255, 0])
    np.testing.assert_array_equal(np.asarray(found)[1:], GREY[1:])


def test_grey_in_half_precision_comes_back(tmp_path: Path) -> None:
    given = RANDOM.normal(size=(1, 1, HEIGHT, WIDTH)).astype(np.float16).astype(np.float32)
    found = load(writer(tmp_path, "GRAYSCALE_FLOAT16")).predict({"x": given})["y"]
    assert found.mode == "F"
    np.testing.assert_array_equal(np.asarray(found), given[0, 0])


def test_without_pillow_arrays_go_in_and_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIL", "PIL.Image"):
        monkeypatch.setitem(sys.modules, name, None)
    for colour in ("RGB", "GRAYSCALE"):
        (tmp_path / colour).mkdir()
        wanted = RGB if colour == "RGB" else GREY
        program = load(writer(tmp_path / colour, colour))
        found = program.predict({"x": planes(RGB) if colour == "RGB" else GREY[None, None]})["y"]
        assert isinstance(found, np.ndarray) and found.dtype == np.uint8
        np.testing.assert_array_equal(found, wanted)
    (tmp_path / "in").mkdir()
    np.testing.assert_array_equal(load(reader(tmp_path / "in", "RGB")).predict({"picture": RGB})["y"], planes(RGB))


def test_a_picture_whose_values_have_another_shape(tmp_path: Path) -> None:
    path = converted(lambda x: mb.identity(x=x, name="y"), {"x": ct.TensorType("x", (2, 3, 4, 4), np.float32)}, tmp_path)

    def change(spec: Any) -> None:
        kind = spec.description.output[0].type.imageType
        kind.colorSpace, kind.width, kind.height = kind.ColorSpace.Value("RGB"), 4, 4

    with pytest.raises(ExecutionError, match=r"output 'y' has the shape \[2, 3, 4, 4\]"):
        load(edit(path, change)).predict({"x": np.zeros((2, 3, 4, 4))})
