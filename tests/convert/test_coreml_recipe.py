"""What a conversion may be asked for, and what is said to what it may not."""

from __future__ import annotations

import json

import pytest

from workbench.convert.coreml.recipe import QUANTIZATIONS, Recipe
from workbench.errors import UsageError


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"precision": "fp61"}, ("precision 'fp61' is not known", "fp32, fp16", "did you mean 'fp16'?")),
        ({"quantize": "int4"}, ("quantize 'int4' is not known", "int4-block32", "did you mean 'int8'?")),
        ({"quantize": "palette5"}, ("palette4, palette6", "did you mean")),
        ({"target": "ios18"}, ("target 'ios18' is not known", "did you mean 'iOS18'?")),
        ({"quantize": "int4-block32", "target": "iOS17"}, ("int4-block32 cannot be stored for iOS17", "from iOS18 on")),
        ({"stateful": True, "target": "iOS17"}, ("iOS17 cannot keep states", "stateful=false")),
        ({"keep_fp32": ("softmax",)}, ("keep_fp32=softmax means nothing in fp32", "precision=fp16")),
        ({"context": 1}, ("context=1 is no number of positions",)),
        ({"context": True}, ("context=True",)),
    ],
)
def test_what_does_not_go_together(given, words):
    with pytest.raises(UsageError) as caught:
        Recipe(**given).check()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_every_compression_goes_with_both_precisions():
    for quantize in (None, *QUANTIZATIONS):
        for precision in ("fp32", "fp16"):
            assert Recipe(precision=precision, quantize=quantize).check().quantize == quantize


def test_the_label_tells_recipes_apart():
    recipes = [
        Recipe(),
        Recipe("fp16"),
        Recipe(quantize="int8"),
        Recipe(target="iOS17"),
        Recipe(stateful=True),
        Recipe(context=512),
    ]
    recipes += [Recipe("fp16", keep_fp32=("softmax",)), Recipe("fp16", keep_fp32=("softmax", "text.block.0"))]
    assert len({recipe.label for recipe in recipes}) == len(recipes)
    assert Recipe("fp16", "int4-block32", "iOS18", stateful=True).label == "fp16 int4-block32 iOS18 stateful"


def test_json_and_back():
    recipe = Recipe("fp16", "palette6", "iOS18", True, ("softmax", "text.*"), 256)
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    with pytest.raises(UsageError, match="recipe option 'colour' is not known"):
        Recipe.from_json({**recipe.to_json(), "colour": "red"})


def test_options_as_a_user_types_them():
    assert Recipe.from_options({}) == Recipe(stateful=True)
    assert Recipe.from_options({"target": "iOS17"}) == Recipe(target="iOS17", stateful=False)
    given = {"precision": "fp16", "quantize": "none", "stateful": "no", "keep_fp32": "softmax, text.block.0,", "context": "512"}
    assert Recipe.from_options(given) == Recipe("fp16", None, "iOS18", False, ("softmax", "text.block.0"), 512)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"stateful": "maybe"}, "stateful='maybe' is neither true nor false"),
        ({"stateful": "true", "target": "iOS17"}, "cannot keep states"),
        ({"context": "many"}, "context='many' is no number"),
        ({"quantise": "int8"}, "did you mean 'quantize'"),
    ],
)
def test_options_that_are_wrong(given, words):
    with pytest.raises(UsageError) as caught:
        Recipe.from_options(given)
    assert words in str(caught.value)
