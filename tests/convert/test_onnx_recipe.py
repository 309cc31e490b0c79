"""What an ONNX conversion is asked for: words, defaults, what does not go together."""

import itertools
import json

import numpy as np
import pytest

from workbench.convert.onnx.recipe import OPTIONS, Recipe
from workbench.errors import UsageError
from workbench.models.converted import recipe_words


def test_defaults_are_filled_in():
    assert Recipe().check() == Recipe(dynamic=("seq",)) and Recipe().written_opset == 20
    assert Recipe(precision="bf16").written_opset == 22 and Recipe(precision="bf16", opset=23).check().written_opset == 23
    found = Recipe(precision="int8-qdq").check()
    assert (found.calibration, found.samples_limit) == ("max", 16)
    assert not found.stateful


def test_words_a_user_typed():
    found = Recipe.from_options(
        {
            "precision": "int8-qdq",
            "calibration": "entropy",
            "calibrate": "demo, stt",
            "calibrate_limit": "4",
            "dynamic": "batch,seq",
            "context": "64",
            "opset": "21",
            "keep_fp32": "text.block.0*",
        }
    )
    assert found.samples == ("demo", "stt") and found.samples_limit == 4 and found.keep_fp32 == ("text.block.0*",)
    assert found.label == "int8-qdq entropy on(demo,stt) keep-fp32(text.block.0*) context64 dynamic(seq,batch) opset21"
    assert Recipe.from_options({"dynamic": "none"}).dynamic == () and Recipe.from_options({"dynamic": ""}).dynamic == ("seq",)
    assert Recipe.from_options({name: "" for name in OPTIONS}) == Recipe().check()


def test_the_order_of_sizes_makes_no_other_recipe():
    assert Recipe(dynamic=("batch", "seq")).check() == Recipe(dynamic=("seq", "batch")).check()


def test_a_manifest_holds_all_of_it():
    recipe = Recipe(precision="fp16", keep_fp32=("MatMul",), dynamic=("batch",), context=32, opset=21).check()
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe_words(recipe.to_json()) == recipe.label == "fp16 keep-fp32(MatMul) context32 dynamic(batch) opset21"


def test_the_words_are_one_for_many_recipes():
    """Those of a recipe are those of the manifest it is written to, and each option is seen in them."""
    words = set()
    options = itertools.product(
        [
            ("fp32", None, ()),
            ("fp16", None, ()),
            ("bf16", None, ()),
            ("int8-qdq", None, ("demo",)),
            ("int8-qdq", "entropy", ("a", "b")),
        ],
        [(), ("text.block.*", "MatMul")],
        [("seq",), ("batch", "seq"), ()],
        [None, 64],
        [None, 23],
    )
    count = 0
    for (precision, calibration, samples), kept, dynamic, context, opset in options:
        if precision == "fp32" and kept:
            continue
        count += 1
        recipe = Recipe(precision, kept, calibration, samples, None, dynamic, context, opset).check()
        assert recipe.label == recipe_words(json.loads(json.dumps(recipe.to_json())))
        words.add(recipe.label)
    assert len(words) == count == 108
    assert "int8-qdq entropy on(a,b) keep-fp32(text.block.*,MatMul) context64 dynamic(seq,batch) opset23" in words


def test_a_file_of_samples_goes_by_its_contents(tmp_path):
    path = tmp_path / "inputs.npz"
    np.savez(path, x=np.zeros(3))
    told = Recipe(precision="int8-qdq", samples=(str(path),)).check().to_json()["samples"]
    assert told[0].startswith("inputs.npz ") and str(tmp_path) not in told[0]
    np.savez(path, x=np.ones(3))
    assert Recipe(precision="int8-qdq", samples=(str(path),)).check().to_json()["samples"] != told


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"precision": "fp61"}, "did you mean 'fp16'"),
        ({"precision": "int8"}, "int8-qdq"),
        ({"keep_fp32": ("MatMul",)}, "precision=fp16"),
        ({"precision": "fp16", "calibration": "max"}, "precision=int8-qdq"),
        ({"samples": ("demo",)}, "precision=int8-qdq"),
        ({"precision": "int8-qdq", "calibration": "kl"}, "entropy"),
        ({"precision": "int8-qdq", "samples_limit": 0}, "--calibrate-limit 16"),
        ({"dynamic": ("height",)}, "known: seq, batch"),
        ({"opset": 17}, "18 to 25"),
        ({"opset": 26}, "--opset 20"),
        ({"precision": "bf16", "opset": 20}, "--opset 22"),
        ({"context": 1}, "context=512"),
    ],
)
def test_what_does_not_fit_is_told(wrong, says):
    with pytest.raises(UsageError) as told:
        Recipe(**wrong).check()
    assert says in f"{told.value.what} {told.value.why} {told.value.fix}"


@pytest.mark.parametrize("options", [{"opset": "new"}, {"context": "-1"}, {"calibrate_limit": "x"}, {"quantize": "int8"}])
def test_words_that_mean_nothing(options):
    with pytest.raises(UsageError):
        Recipe.from_options(options)
