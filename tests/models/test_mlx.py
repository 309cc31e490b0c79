"""Vision-language models on MLX, against torch on the same folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from workbench.errors import ModelError
from workbench.models.loading import open_vision_language
from workbench.types import Generation, Media, ModelSpec

pytest.importorskip("mlx.core", reason="needs mlx (pip install 'parity-workbench[mlx]')")
pytest.importorskip("mlx_vlm", reason="needs mlx-vlm (pip install 'parity-workbench[mlx]')")

SHORT = Generation(max_tokens=12)
FOLLOWED = (5, 17, 9, 1)


@pytest.fixture(scope="module")
def model(tiny):
    return open_vision_language(ModelSpec.parse(f"mlx:{tiny}?device=cpu&dtype=float32"))


@pytest.fixture(scope="module")
def answers(model, mixed):
    return model.answer(mixed, SHORT)


@pytest.fixture(scope="module")
def reference(tiny):
    pytest.importorskip("torch", reason="needs torch as the reference (pip install 'parity-workbench[torch]')")
    return open_vision_language(ModelSpec.parse(f"torch:{tiny}?device=cpu"))


def test_same_answers_as_torch(reference, mixed, answers):
    expected = reference.answer(mixed, SHORT)
    assert [output.tokens for output in answers] == [output.tokens for output in expected]
    assert [(output.value, output.finish) for output in answers] == [(output.value, output.finish) for output in expected]
    assert [output.timing.n_in for output in answers] == [output.timing.n_in for output in expected]


def test_same_logits_as_torch(reference, model, mixed):
    for request in mixed[:4]:
        expected, found = reference.follow(request, FOLLOWED), model.follow(request, FOLLOWED)
        assert found.shape == expected.shape
        assert numpy.abs(found - expected).max() < 2e-5 * numpy.abs(expected).max()


def test_same_prompt_and_pixels_as_torch(reference, model, mixed):
    for request in mixed[:4]:
        theirs, ours = reference.preprocessor.prepare(request, "pt"), model.preprocessor.prepare(request, "np")
        assert ours.prompt == theirs.prompt
        for name, value in ours.arrays.items():
            assert numpy.array_equal(numpy.asarray(value), theirs.arrays[name].numpy()), name


def test_own_preprocessing_is_recorded(tiny, mixed, answers):
    own = open_vision_language(ModelSpec.parse(f"mlx:{tiny}?device=cpu&dtype=float32&preprocessing=own"))
    assert own.describe()["preprocessing"] == "own" and own.describe()["processor"] == "LlavaProcessor"
    outputs = own.answer(mixed, SHORT)
    assert [output.error for output in outputs] == [None] * len(mixed)
    assert outputs[0].tokens == answers[0].tokens


def test_torch_keeps_its_processor_after_mlx_vlm_patched_it(tiny, model, mixed):
    pytest.importorskip("torch", reason="needs torch (pip install 'parity-workbench[torch]')")
    again = open_vision_language(ModelSpec.parse(f"torch:{tiny}"))
    assert type(again.preprocessor.processor).__module__.startswith("transformers.")


def test_batches_are_refused_aloud(tiny):
    model = open_vision_language(ModelSpec.parse(f"mlx:{tiny}?device=cpu&batch_size=16"))
    assert model.batch_size == 1 and "one at a time" in model.describe()["notes"][0]


def test_stop_strings(model, mixed, answers):
    full = model.tokenizer.decode(answers[1].tokens, skip_special_tokens=True)
    stop = full[4:6]
    output = model.answer([mixed[1]], Generation(max_tokens=12, stop=(stop,)))[0]
    assert output.finish == "stop" and output.value == full[: full.index(stop)].strip()


def test_bad_items(model, mixed, answers, ask, image):
    outputs = model.answer([ask("x", Media(data=b"no picture")), mixed[0], ask("long " * 200), ask("?", image(1, 1))], SHORT)
    assert [output.error and output.error["reason"] for output in outputs] == ["image", None, "context", None]
    assert outputs[1].tokens == answers[0].tokens


def test_timing(answers):
    for output in answers:
        assert 0 < output.timing.prepare < output.timing.first < output.timing.total and output.timing.batch == 1


def test_describe(model):
    facts = model.describe()
    assert (facts["dtype"], facts["device"], facts["quantisation"]) == ("float32", "cpu", None)
    assert facts["preprocessing"] == "shared" and facts["prompt"] == "chat template, content list"
    assert str(model.found.folder) not in json.dumps(facts)


def test_parameters_are_counted_as_torch_counts(reference, model, quantised):
    expected = reference.describe()["parameters"]
    assert model.describe()["parameters"] == expected
    packed = open_vision_language(ModelSpec.parse(f"mlx:{quantised}?dequantise=false"))
    assert packed.describe()["parameters"] == expected


@pytest.fixture(scope="module")
def quantised(tiny, tmp_path_factory) -> Path:
    """The folder as mlx-vlm's converter would quantise it: 4 bits in groups of 32, the vision tower left alone."""
    from mlx import core, nn
    from mlx.utils import tree_flatten
    from mlx_vlm.utils import load_model

    folder = tmp_path_factory.mktemp("models") / "tiny-4bit"
    shutil.copytree(tiny, folder)
    model = load_model(tiny)
    nn.quantize(
        model,
        group_size=32,
        bits=4,
        class_predicate=lambda path, layer: path.startswith("language_model") and hasattr(layer, "to_quantized"),
    )
    (folder / "model.safetensors").unlink()
    core.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), metadata={"format": "mlx"})
    config = json.loads((tiny / "config.json").read_text()) | {"quantization": {"group_size": 32, "bits": 4, "mode": "affine"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_quantised_folder_is_dequantised_and_labelled(quantised, mixed):
    plain = open_vision_language(ModelSpec.parse(f"mlx:{quantised}?device=cpu"))
    assert plain.describe()["quantisation"] == "dequantised: 4-bit → float32" and plain.describe()["dtype"] == "float32"
    packed = open_vision_language(ModelSpec.parse(f"mlx:{quantised}?device=cpu&dequantise=false"))
    assert packed.describe()["quantisation"] == "4-bit, groups of 32, affine" and "uint32" in packed.describe()["dtype"]
    expected, found = packed.follow(mixed[0], FOLLOWED), plain.follow(mixed[0], FOLLOWED)
    assert numpy.abs(found - expected).max() < 1e-4 * numpy.abs(expected).max()
    assert [output.error for output in plain.answer(mixed, SHORT)] == [None] * len(mixed)


def test_transformers_5_layout_with_another_rope_is_refused(broken):
    config = json.loads((broken / "config.json").read_text())
    del config["text_config"]["rope_theta"]
    config["text_config"]["rope_parameters"] = {"rope_type": "default", "rope_theta": 500000.0}
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="rope_theta"):
        open_vision_language(ModelSpec.parse(f"mlx:{broken}"))


def test_answers_do_not_depend_on_the_blas_route(tiny, answers):
    """Two processes, one with torch's BLAS and one without: same tokens, logits apart by rounding only."""
    import subprocess
    import sys

    from workbench.backends import blas_route

    if not blas_route.on_linux_x86() or blas_route.library_path() is None:
        pytest.skip("the route needs Linux on x86 and torch's library")
    code = """if True:
        import io, json, sys
        from PIL import Image
        from workbench.models.loading import open_vision_language
        from workbench.types import Generation, Media, ModelSpec, Request
        stream = io.BytesIO()
        Image.linear_gradient("L").convert("RGB").save(stream, "PNG")
        request = Request({"text": "What is this?", "images": [Media(data=stream.getvalue())]}, "test@1")
        model = open_vision_language(ModelSpec.parse(sys.argv[1]))
        output, = model.answer([request], Generation(max_tokens=12))
        print(json.dumps([output.tokens, model.follow(request, (5, 6, 1))[-1].tolist()]))
    """
    found = {}
    for route in ("torch", "off"):
        command = [sys.executable, "-c", code, f"mlx:{tiny}?device=cpu&blas={route}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        found[route] = json.loads(done.stdout.splitlines()[-1])
    assert found["torch"][0] == found["off"][0]
    numpy.testing.assert_allclose(found["torch"][1], found["off"][1], atol=2e-5)


def test_torch_refuses_weights_packed_for_mlx(quantised):
    pytest.importorskip("torch", reason="needs torch (pip install 'parity-workbench[torch]')")
    with pytest.raises(ModelError, match="quantised for MLX"):
        open_vision_language(ModelSpec.parse(f"torch:{quantised}"))


def test_the_torch_side_is_not_touched_by_what_mlx_vlms_models_replace():
    """Molmo 2's module replaces AutoProcessor.from_pretrained in a way of its own, and would hand torch MLX's arrays."""
    program = (
        "import mlx_vlm.models.llava, mlx_vlm.models.molmo2, mlx_vlm.models.qwen2_vl, tempfile, workbench as wb\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    run = wb.evaluate('mmstar-sample', 'demo:vlm@torch', limit=1, runs=folder)\n"
        "    print([line['output']['finish'] for line in run.items().values()])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("['stop']"), done.stderr
