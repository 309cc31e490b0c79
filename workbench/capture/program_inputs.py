"""What a Core ML program is fed: arrays from files, or seeded random numbers of the shapes that it declares.

    read_inputs(program, ["one.npz", "image=cat.png"])      # [ProgramItem("one", ...)]; pictures belong to every file's item
    random_inputs(program, 2)                               # "random-0" and "random-1"; their text says what was drawn

The twin of a program gets the very same arrays: floats as float32, whole numbers as int64, as every capture keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from workbench.errors import DataError, UsageError
from workbench.fingerprint import of_json
from workbench.models.seen import as_array, digest

LARGEST = 3.4028234663852886e38
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class ProgramItem:
    """One set of inputs. ``text`` says where the numbers come from, in words."""

    id: str
    arrays: dict[str, Any]
    text: str

    @property
    def hashes(self) -> dict[str, dict[str, Any]]:
        return {
            name: {"hash": digest(array), "shape": list(array.shape), "dtype": str(array.dtype)}
            for name, array in sorted(self.arrays.items())
        }

    @property
    def input_hash(self) -> str:
        return of_json({name: about["hash"] for name, about in self.hashes.items()}, 32)

    @property
    def seen(self) -> dict[str, Any]:
        """As the lines of captures hold it; a program is given no tokens."""
        return {"prompt": None, "tokens": {"n": 0, "hash": ""}, "arrays": self.hashes}


def given_inputs(program: Any, given: Any, count: int | None = None) -> list[ProgramItem]:
    """Items from whatever was given: nothing (``count`` random ones), arrays by name, a list of these, or files as `read_inputs` takes them.
    Raises DataError or UsageError."""
    if given is None or (isinstance(given, list | tuple) and not given):
        return random_inputs(program, count or 1)
    if isinstance(given, Mapping):
        given = [given]
    elif isinstance(given, str | Path):
        return read_inputs(program, [given])
    if all(isinstance(each, Mapping) for each in given):
        names = ["arrays"] if len(given) == 1 else [f"arrays-{number}" for number in range(len(given))]
        return [ProgramItem(name, checked(program, arrays, name), "arrays") for name, arrays in zip(names, given, strict=True)]
    return read_inputs(program, given)


def read_inputs(program: Any, sources: Sequence[str | Path]) -> list[ProgramItem]:
    """One item a ``.npz``; ``NAME=FILE.png`` (or ``.npy``) gives one input of all of them. Raises DataError or UsageError."""
    shared: dict[str, Any] = {}
    files: list[Path] = []
    pictures: list[str] = []
    for source in map(str, sources):
        name, found, file = source.partition("=")
        if found and not Path(source).exists():
            shared[name] = read_one(program, name, Path(file))
            pictures.append(Path(file).name)
        else:
            files.append(Path(source))
    sets = [(path.stem, read_npz(path), f"arrays of {path.name}") for path in files] or [
        (Path(pictures[0]).stem, {}, f"{', '.join(pictures)}")
    ]
    items = [ProgramItem(stem, checked(program, {**arrays, **shared}, text), text) for stem, arrays, text in sets]
    twice = {item.id for item in items if sum(other.id == item.id for other in items) > 1}
    if twice:
        raise UsageError(f"two inputs are called {min(twice)!r}", why="items are compared by their names", fix="rename one file")
    return items


def read_npz(path: Path) -> dict[str, Any]:
    import numpy

    if not path.is_file():
        raise DataError(f"there is no file {str(path)!r}", fix="--inputs X.npz, made with numpy.savez('X.npz', NAME=array, ...)")
    if path.suffix.lower() != ".npz":
        raise DataError(f"{path.name} is no .npz", why="inputs have names", fix="--inputs X.npz, or --inputs NAME=picture.png")
    if not is_zipfile(path):  # numpy takes it for a pickle and says how to load one
        raise DataError(f"{path} cannot be read as named arrays", why="it is no zip of arrays", fix="make it with numpy.savez")
    try:
        with numpy.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # a zip of somebody's
        raise DataError(f"{path} cannot be read as named arrays", why=f"{type(error).__name__}: {error}"[:300]) from error


def read_one(program: Any, name: str, path: Path) -> Any:
    """A picture, as the program's input of this name takes it, or a ``.npy``."""
    import numpy

    if not path.is_file():
        raise DataError(f"there is no file {str(path)!r}", fix=f"--inputs {name}=FILE")
    try:
        if path.suffix.lower() == ".npy":
            return numpy.load(path, allow_pickle=False)
        if path.suffix.lower() in PICTURES:
            return picture(feature_of(program, name), path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read", why=str(error)[:300]) from error
    raise DataError(f"{path.name} is neither a picture nor a .npy", fix=f"--inputs {name}=picture.png")


def feature_of(program: Any, name: str) -> Any:
    found = next((feature for feature in program.inputs if feature.name == name), None)
    if found is None:
        raise UsageError(f"there is no input {name!r}", why=f"inputs: {'; '.join(map(str, program.inputs))}")
    return found


def picture(feature: Any, path: Path) -> Any:
    """[1, channels, height, width], 0 to 255, in the colour order of the input and resized to it where its size is fixed."""
    import numpy
    from PIL import Image

    if feature.image is None:
        raise UsageError(
            f"input {feature.name!r} is no image", why=f"the program declares {feature}", fix="give it as an array in a .npz"
        )
    with Image.open(path) as opened:
        image = opened.convert("RGB" if feature.image.channels == 3 else "L")
    size = feature.shape[-2:] if feature.shape else (None, None)
    if None not in size and (image.height, image.width) != tuple(size):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    array = numpy.asarray(image, numpy.float32)
    array = array[..., None] if array.ndim == 2 else array
    array = array[..., ::-1] if feature.image.colour == "BGR" else array
    return numpy.ascontiguousarray(numpy.moveaxis(array, 2, 0)[None])


def checked(program: Any, arrays: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The arrays that a program takes, in the order of its inputs. Raises UsageError for names that do not match."""
    known = {feature.name: feature for feature in program.inputs}
    missing = [name for name, each in known.items() if name not in arrays and not each.optional and each.default is None]
    strange = [name for name in arrays if name not in known]
    if missing or strange:
        said = [f"it lacks {', '.join(missing)}"] if missing else []
        said += [f"the program has no input {', '.join(strange)}"] if strange else []
        raise UsageError(f"{where} do not fit", why="; ".join(said), fix=f"inputs: {'; '.join(map(str, program.inputs))}")
    return {name: as_array(number(name, arrays[name], where)) for name in known if name in arrays}


def number(name: str, array: Any, where: str) -> Any:
    """Raises UsageError for what is no real number, or beyond float32."""
    import numpy

    found = numpy.asarray(array)
    if found.dtype.kind not in "fiub":
        raise UsageError(f"{where}: input {name!r} holds {found.dtype}", why="a program takes floats, whole numbers and booleans")
    if found.dtype == numpy.float64 and found.size and bool((numpy.isfinite(found) & (abs(found) > LARGEST)).any()):
        raise UsageError(f"{where}: input {name!r} holds values beyond float32", why=f"the largest is {numpy.abs(found).max():.3g}")
    return array


def random_inputs(program: Any, count: int = 1) -> list[ProgramItem]:
    """Items drawn from seeds 0, 1, ...: floats from the standard normal distribution, pictures 0 to 255, whole numbers 0 or 1 (which are
    ids of any vocabulary and marks of any mask), of the declared shape; where it may vary, the one of the conversion."""
    import numpy

    found = []
    for seed in range(count):
        generator = numpy.random.default_rng(seed)
        arrays = {feature.name: drawn(generator, feature, shape_of(program, feature)) for feature in program.inputs}
        kinds = sorted({kind_of(feature) for feature in program.inputs})
        shapes = [f"{name} {'×'.join(map(str, array.shape)) or 'scalar'}" for name, array in arrays.items()]
        text = f"random numbers, seed {seed}: {'; '.join(kinds)}; {', '.join(shapes)}" if arrays else "no inputs"
        found.append(ProgramItem(f"random-{seed}", {name: as_array(array) for name, array in arrays.items()}, text))
    return found


def kind_of(feature: Any) -> str:
    if feature.image is not None:
        return "pictures 0 to 255"
    return "floats standard normal" if is_float(feature) else "whole numbers 0 or 1"


def is_float(feature: Any) -> bool:
    return feature.dtype.startswith(("fp", "bf"))


def drawn(generator: Any, feature: Any, shape: tuple[int, ...]) -> Any:
    import numpy

    if feature.image is not None:
        return generator.integers(0, 256, shape).astype(numpy.float32)
    if is_float(feature):
        return generator.standard_normal(shape).astype(numpy.float32)
    return generator.integers(0, 2, shape)


def shape_of(program: Any, feature: Any) -> tuple[int, ...]:
    """The shape in the model's description where the input may have it, else the smallest that is allowed."""
    from workbench.mil import MilError

    described = described_shape(program, feature)
    smallest = feature.enumerated[0] if feature.enumerated else None
    if smallest is None and feature.ranges:
        smallest = tuple(max(1, low) for low, _ in feature.ranges)
    if smallest is None:
        smallest = tuple(1 if size is None else size for size in feature.shape or ())
    for shape in (described, smallest):
        if shape is None:
            continue
        try:
            feature.check_shape(shape)
        except MilError:
            continue
        return shape
    return smallest


def described_shape(program: Any, feature: Any) -> tuple[int, ...] | None:
    description = program.package.spec.description
    named = {item.name: item for item in description.functions}
    held = named.get(program.function_name, description)
    found = next((item.type for item in held.input if item.name == feature.name), None)
    if found is not None and found.WhichOneof("Type") == "multiArrayType" and len(found.multiArrayType.shape):
        return tuple(int(size) for size in found.multiArrayType.shape)
    if feature.image is not None and found is not None and found.imageType.height and found.imageType.width:
        return (1, feature.image.channels, int(found.imageType.height), int(found.imageType.width))
    return None
