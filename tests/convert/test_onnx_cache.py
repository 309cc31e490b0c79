"""Conversion to ONNX on first use: one entry for both runtimes, found again only when all of it matches."""

import pytest

for library in ("torch", "onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(library)

from tests.convert.small_modules import small  # noqa: E402
from workbench.convert.cache import cached, entry_of  # noqa: E402
from workbench.convert.onnx import cache as caching  # noqa: E402
from workbench.convert.onnx.build import CONVERTER, ONNX, with_samples  # noqa: E402
from workbench.convert.onnx.recipe import OPTIONS, Recipe  # noqa: E402
from workbench.convert.subject import Subject, subject_of  # noqa: E402
from workbench.errors import UsageError  # noqa: E402
from workbench.models.options_converted import RECIPES  # noqa: E402
from workbench.registry import get_converter  # noqa: E402
from workbench.types import ModelSpec  # noqa: E402


@pytest.fixture
def asked(monkeypatch):
    """What ``ensure`` asks the cache for, without converting: [(subject, recipe)]."""
    seen = []
    named = Subject("demo:vlm", None, "w", "c", 1, None, lambda recipe: None)
    monkeypatch.setattr(caching, "subject_of", lambda spec: named)

    class Done:
        folder = "here"

    monkeypatch.setattr(caching, "cached", lambda converter, subject, recipe, say: seen.append((subject, recipe)) or Done)
    return seen


def test_both_runtimes_open_one_entry(asked):
    for runtime in ("onnx", "tensorrt"):
        assert get_converter(runtime) is caching.ensure
        assert caching.ensure(ModelSpec.parse(f"demo:vlm@{runtime}?precision=fp16")) == "here"
    (subject, one), (_, other) = asked
    assert one == other == Recipe(precision="fp16").check()
    assert entry_of(CONVERTER, subject, one).parent.name == "onnx"


def test_a_demo_model_is_calibrated_with_its_own_suite(asked):
    caching.ensure(ModelSpec.parse("demo:vlm@tensorrt?precision=int8-qdq&calibrate_limit=4"))
    caching.ensure(ModelSpec.parse("demo:vlm@tensorrt?precision=int8-qdq&calibrate=pope"))
    assert [recipe.samples for _, recipe in asked] == [("demo",), ("pope",)] and asked[0][1].samples_limit == 4
    other = Subject("ORG/NAME", None, "w", "c", 1, None, lambda recipe: None)
    with pytest.raises(UsageError, match="needs samples"):
        with_samples(other, Recipe(precision="int8-qdq").check())


def test_options_of_the_runtime_make_no_other_program(asked):
    caching.ensure(ModelSpec.parse("demo:vlm@onnx?reading=pure&threads=2"))
    assert asked[0][1] == Recipe().check()


def test_the_options_are_those_of_specs():
    assert set(RECIPES["onnx"]) == set(OPTIONS) == set(RECIPES["tensorrt"])


def test_what_is_there_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    subject, recipe, said = subject_of(small(tmp_path)), Recipe().check(), []
    first = cached(CONVERTER, subject, recipe, said.append)
    assert not first.reused and "for ONNX and TensorRT (fp32)" in said[-1]

    def convert(*given, **named):
        raise AssertionError("it was converted again")

    monkeypatch.setattr("workbench.convert.onnx.build.graph_of", convert)
    again = cached(CONVERTER, subject, recipe, pytest.fail)
    assert again.reused and again.folder == first.folder
    (first.folder / "main.onnx").write_bytes(b"damaged")
    with pytest.raises(AssertionError, match="converted again"):
        cached(CONVERTER, subject, recipe, said.append)
    assert "was damaged: set aside" in said[-2]
    monkeypatch.setattr(ONNX, "number", ONNX.number + 1)
    assert entry_of(CONVERTER, subject, recipe) != first.folder
