"""A conversion as a folder: whole or not there, checked, the same every time, without anything of this machine in it."""

import json
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("coremltools")
pytest.importorskip("torch")

from tests.convert import staged_models
from tests.convert.coreml_models import Six, torch
from tests.convert.small_modules import small
from workbench.convert.building import mismatch, wanted
from workbench.convert.comparing import example_feeds
from workbench.convert.coreml import build as builder
from workbench.convert.coreml import check as checking
from workbench.convert.coreml.build import CONVERTER, build
from workbench.convert.coreml.programs import convert_stage
from workbench.convert.coreml.recipe import Recipe
from workbench.convert.drafts import draft, publish
from workbench.convert.reload import DifferentModel
from workbench.convert.stages.stage import Stage
from workbench.convert.subject import subject_of
from workbench.errors import EXIT_DIFFERENT, ModelError, UsageError


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """(the factory, its artifact)."""
    folder = tmp_path_factory.mktemp("module")
    factory = small(folder)
    return factory, build(subject_of(factory), folder / "out", Recipe()).artifact


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """(an artifact of three stages, of which two share all their weights and the third has no softmax; what was said)."""
    import torch

    folder = tmp_path_factory.mktemp("several")
    subject = subject_of(small(folder))
    stages = subject.stages(Recipe())
    main = stages["main"]
    other = replace(
        main, name="other", module=torch.nn.Linear(64, 8).eval(), example={"input": main.example["x"]}, layers={}, parameters={}
    )
    stages.stages, stages.shared = (main, replace(main, name="again"), other), (("main", "again"),)
    said = []
    done = build(subject, folder / "out", Recipe(precision="fp16", keep_fp32=("softmax",)), say=said.append)
    return done.artifact, said


def test_a_module_is_converted_and_checked(module):
    _, found = module
    assert (found.family, found.architecture, list(found.stages)) == ("module", "Small", ["main"])
    stage = found.stages["main"]
    assert [each.name for each in stage.inputs] == ["x"] and [each.name for each in stage.outputs] == ["scores"]
    assert stage.ops["linear"] == 2 and stage.layers["wide"] in stage.origins
    seen = found.check["main"]
    assert seen["same"] and seen["calls"] == 2 and seen["outputs"]["scores"]["relative_l2"] < 1e-6
    assert seen["precision"] == {
        "asked": "fp32",
        "found": {"fp32": sum(seen["precision"]["found"].values())},
        "other": [],
        "same": True,
    }
    assert found.manifest["inputs"] == "seeded random inputs" and found.source["name"] == "small.py:make"
    assert {path.name for path in found.folder.parent.iterdir()} - {"__pycache__"} == {"small.py", "out"}


def test_two_conversions_are_the_same(module, tmp_path):
    """Also after one that failed in the same process."""
    factory, found = module
    with pytest.raises(ModelError, match="rank <= 5"):
        convert_stage(Stage("main", Six(), {"x": torch.randn(2, 7)}, ("y",)), Recipe())
    again = build(subject_of(factory), tmp_path / "again", Recipe()).artifact
    assert again.identity() == found.identity() and again.folder != found.folder


def test_stages_that_share_weights_share_a_package(several, module):
    found, said = several
    assert {name: (stage.package, stage.function) for name, stage in found.stages.items()} == {
        "main": ("decoder.mlpackage", "main"),
        "again": ("decoder.mlpackage", "again"),
        "other": ("other.mlpackage", None),
    }
    assert {path.name for path in found.folder.glob("*.mlpackage")} == {"decoder.mlpackage", "other.mlpackage"}
    assert found.stages["again"].layers == found.stages["main"].layers and found.stages["again"].ops == found.stages["main"].ops
    stored = {path: path.stat().st_size for path in found.folder.rglob("weight.bin")}
    alone = sum(tensor.numel() for tensor in subject_of(module[0]).stages(Recipe())["main"].module.parameters())
    assert max(stored.values()) < 1.5 * 2 * alone  # fp16, once
    converting = [line for line in said if line.startswith("converting")]
    assert [line.split(": ")[-1] for line in converting] == ["main (1 of 3)", "again (2 of 3)", "other (3 of 3)"]


def test_for_an_older_system_each_stage_has_its_package(tmp_path):
    subject = subject_of(small(tmp_path))
    stages = subject.stages(Recipe())
    stages.stages, stages.shared = (stages["main"], replace(stages["main"], name="again")), (("main", "again"),)
    done = build(subject, tmp_path / "out", Recipe(target="iOS17"), check=False)
    assert {stage.package for stage in done.artifact.stages.values()} == {"main.mlpackage", "again.mlpackage"}


def test_patterns_are_for_all_stages_together(several):
    found, _ = several
    kept = {name: found.manifest["stages"][name]["kept_fp32"] for name in found.stages}
    assert not kept["other"] and [row["op"] for row in kept["again"]] == ["softmax"]
    seen = {name: found.check[name]["precision"] for name in found.stages}
    assert "(softmax)" in seen["main"]["other"][0] and seen["other"]["other"] == [] and all(each["same"] for each in seen.values())


def test_settings_are_copied_without_the_places_they_name(tmp_path):
    source, target = staged_models.whisper(tmp_path / "tiny"), tmp_path / "out"
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "_name_or_path": "/home/somebody/models/tiny"}))
    (source / "tokenizer_config.json").write_text(json.dumps({"name_or_path": "C:\\Users\\somebody\\tiny", "eos_token": "/s"}))
    for name in ("train.py", "optimizer.pt", "trainer_state.json", "notes.txt", ".hidden.json"):
        (source / name).write_text("{}")
    target.mkdir()
    subject = subject_of(str(source))
    files = subject.copy_settings(target)
    assert (
        set(files) == {path.name for path in target.iterdir()} == {"config.json", "generation_config.json", "tokenizer_config.json"}
    )
    assert json.loads((target / "config.json").read_text()) == {**config, "_name_or_path": "tiny"}
    assert json.loads((target / "tokenizer_config.json").read_text()) == {"name_or_path": "tiny", "eos_token": "/s"}
    assert (target / "generation_config.json").read_bytes() == (source / "generation_config.json").read_bytes()
    (source / "bad\nname.model").write_text("x")
    with pytest.raises(ModelError, match="cannot be copied safely"):
        subject.copy_settings(target)


def test_nothing_in_a_folder_names_this_machine(module, several):
    private = [tempfile.gettempdir(), os.path.expanduser("~"), socket.gethostname(), str(Path(__file__).parents[2])]
    for path in [*module[1].folder.rglob("*"), *several[0].folder.rglob("*")]:
        data = path.read_bytes() if path.is_file() else b""
        assert not [text for text in private if len(text) > 3 and text.encode() in data], path


def test_a_folder_that_is_there_is_used_only_when_it_is_what_was_asked(module, tmp_path):
    factory, found = module
    subject = subject_of(factory)
    before = (found.folder / "converted.json").stat().st_mtime_ns
    done = build(subject, found.folder, Recipe())
    assert done.reused and (found.folder / "converted.json").stat().st_mtime_ns == before
    for recipe, why in ((Recipe(precision="fp16"), "its precision is 'fp32', and 'fp16'"), (Recipe(target="iOS17"), "its target")):
        with pytest.raises(UsageError, match="another conversion") as caught:
            build(subject, found.folder, recipe)
        assert why in caught.value.why and "--out" in caught.value.fix
    other = tmp_path / "taken"
    other.mkdir()
    with pytest.raises(UsageError, match="is there already"):
        build(subject, other, Recipe())
    damaged = shutil.copytree(found.folder, tmp_path / "damaged")
    (damaged / "main.mlpackage/Data/com.apple.CoreML/model.mlmodel").write_bytes(b"x")
    with pytest.raises(ModelError, match="damaged"):
        build(subject, damaged, Recipe())


def test_what_an_artifact_was_made_from_is_compared_whole(module, tmp_path):
    factory, found = module
    asked = wanted(subject_of(factory), Recipe(), CONVERTER)
    assert mismatch(found, asked) is None
    for part, name in (
        ("source", "weights"),
        ("source", "config"),
        ("recipe", "context"),
        ("versions", "coremltools"),
        ("versions", "converter"),
    ):
        other = {**asked, part: {**asked[part], name: "another"}}
        assert name in mismatch(found, other) or part == "source"
    assert "one_more" in mismatch(found, {**asked, "versions": {**asked["versions"], "one_more": "1"}})
    other = tmp_path / "other"
    other.mkdir()
    assert mismatch(found, wanted(subject_of(small(other, "\nmake_again = make\n")), Recipe(), CONVERTER)).startswith(
        "it was made from other settings"
    )
    assert mismatch(found, wanted(subject_of(small(other).replace(":make", ":make")), Recipe(), CONVERTER)) is None


def test_compression_is_measured_apart_and_what_was_left_is_listed(module, tmp_path):
    factory, dense = module
    done = build(subject_of(factory), tmp_path / "int4", Recipe(quantize="int4-block32"), sensitive=True)
    seen = done.artifact.check["main"]
    assert seen["outputs"]["scores"]["relative_l2"] < 1e-6 and seen["compressed"]["scores"]["relative_l2"] > 1e-4
    rows = {row["parameter"]: row for row in done.artifact.stages["main"].weights}
    assert rows["wide.weight"]["compressed"] and "16 input channels" in rows["narrow.weight"]["why_not"]
    assert [row["layer"] for row in done.artifact.manifest["sensitivity"] if row["layer"] != "(all)"] == ["wide"]
    assert done.artifact.size_bytes < dense.size_bytes and not list(done.folder.glob("*dense*"))


def test_a_pattern_that_keeps_nothing_in_any_stage_is_refused(module, tmp_path):
    subject = subject_of(module[0])
    stages = subject.stages(Recipe())
    stages.stages = (stages["main"], replace(stages["main"], name="again"))
    with pytest.raises(UsageError, match="--keep-fp32 'soft_max' keeps nothing") as caught:
        build(subject, tmp_path / "none", Recipe(precision="fp16", keep_fp32=("soft_max",)), check=False)
    assert "layers: " in caught.value.why and not list(tmp_path.iterdir())


def test_what_was_not_checked_is_not_taken_for_checked(module, tmp_path):
    subject = subject_of(module[0])
    done = build(subject, tmp_path / "out", Recipe(), check=False)
    assert done.artifact.check == {} and build(subject, done.folder, Recipe(), check=False).reused
    with pytest.raises(UsageError, match="another conversion") as caught:
        build(subject, done.folder, Recipe())
    assert "--no-check" in caught.value.why


def wrong(convert):
    """A conversion whose torch stage is another than the program: as a converter with a fault would make it."""
    import torch

    def converted(stage, recipe, **more):
        weight = stage.module.wide.weight
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.copy_(kept.T)
            found = convert(stage, recipe, **more)
            weight.copy_(kept)
        return found

    return converted


def test_a_conversion_that_is_not_the_model_is_not_installed(module, tmp_path, monkeypatch):
    from workbench.convert.coreml import programs

    monkeypatch.setattr(programs, "convert_stage", wrong(programs.convert_stage))
    told = []

    def explain(stage, found, package, function, feeds):
        told.append((stage.name, package.is_dir(), function, len(feeds)))
        return ["it begins in linear_0"]

    with pytest.raises(DifferentModel, match="not the model: main: scores is .* away") as caught:
        build(subject_of(module[0]), tmp_path / "out", Recipe(), explain=explain)
    assert (
        caught.value.exit_code == EXIT_DIFFERENT
        and "it begins in linear_0" in caught.value.why
        and "--no-check" in caught.value.fix
    )
    assert told == [("main", True, None, 2)] and not list(tmp_path.iterdir())
    done = build(subject_of(module[0]), tmp_path / "out", Recipe(), check=False)
    assert done.folder.is_dir() and not done.artifact.check


def test_fp16_where_fp32_was_asked_is_found_with_the_ops(module, tmp_path):
    factory, _ = module
    half = build(subject_of(factory), tmp_path / "half", Recipe(precision="fp16")).artifact
    stage = subject_of(factory).stages(Recipe()).stages[0]
    feeds = example_feeds(subject_of(factory).stages(Recipe()))["main"]
    package = half.stages["main"].path
    assert half.check["main"]["same"] and 1e-5 < half.check["main"]["outputs"]["scores"]["relative_l2"] < 4e-2
    seen = checking.check_stage(stage, package, None, feeds, Recipe())
    words = checking.differences("main", seen)
    assert not seen["same"] and any("fp32 was asked, and the graph has" in each and "(softmax)" in each for each in words)
    assert any("the limit is 2e-05" in each for each in words)
    fp32 = checking.check_stage(stage, module[1].stages["main"].path, None, feeds, Recipe(precision="fp16"))
    assert not fp32["precision"]["same"] and not fp32["same"]


def test_values_that_are_finite_on_one_side_only_are_a_difference():
    import numpy

    from workbench.metrics.tensors import tensor_error

    row = checking.judged((tensor_error(numpy.ones(4), numpy.array([1, 1, 1, numpy.inf])), False), 1.0)
    assert not row["same"] and row["not_finite_on_one_side"] == 1
    both = checking.judged((tensor_error(numpy.array([1, -numpy.inf]), numpy.array([1, -numpy.inf])), False), 0.1)
    assert both["same"] and both["relative_l2"] == 0
    assert not checking.judged((tensor_error(numpy.array([3, 4]), numpy.array([3, 5])), True), 1.0)["same"]


def forked(work):
    """The exit status of ``work`` in a process of its own, which has imported all that is here (a new one takes seconds for that)."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001  the child must not go on with the tests
            traceback.print_exc()
            os._exit(1)
    return os.waitpid(pid, 0)[1]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process that has used torch is not forked")
@pytest.mark.parametrize("function", ["save", "_packages"])
def test_a_killed_conversion_leaves_nothing_and_the_next_one_cleans_up(module, tmp_path, monkeypatch, function):
    subject, out, before = subject_of(module[0]), tmp_path / "out", getattr(builder, function)

    def dying(*given):
        before(*given)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(builder, function, dying)
        assert os.WTERMSIG(forked(lambda: build(subject, out, Recipe(), check=False))) == signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out.draft-") and not list(left.rglob("converted.json")) and list(left.rglob("*.mlmodel"))
    with draft(out, 0):
        assert not left.exists()
    assert not list(tmp_path.iterdir())


def test_the_draft_of_a_living_process_is_left_alone(tmp_path):
    with draft(tmp_path / "out", 0) as mine, draft(tmp_path / "out", 0) as other:
        assert mine.is_dir() and other.is_dir() and mine != other
        (mine / "a").write_text("1")
        publish(mine, tmp_path / "out")
        with pytest.raises(UsageError, match="is there already"):
            publish(other, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (tmp_path / "out" / "a").read_text() == "1"


def test_a_full_disk_says_so_and_leaves_nothing(module, tmp_path, monkeypatch):
    class Usage:
        free = 10

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(ModelError, match="no space left to write") as caught:
        build(subject_of(module[0]), tmp_path / "out", Recipe())
    assert "are needed" in caught.value.why and "another disk" in caught.value.fix and not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on the size of files stands in for a full disk")
def test_a_disk_that_fills_up_while_a_program_is_written_says_so(module, tmp_path, monkeypatch):
    subject, before = subject_of(module[0]), builder.save

    def save(*given):
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))
        before(*given)

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with pytest.raises(ModelError, match="no space left to write") as caught:
            build(subject, tmp_path / "out", Recipe(), check=False)
        assert "another disk" in caught.value.fix

    monkeypatch.setattr(builder, "save", save)
    assert forked(work) == 0 and not list(tmp_path.iterdir())


def test_versions_and_converter_number_are_in_the_manifest(module):
    versions = module[1].versions
    assert versions["converter"] == CONVERTER.number and {"workbench", "coremltools", "torch", "transformers"} <= set(versions)


def test_adapters_pickles_and_converted_folders_are_refused(module, tmp_path):
    with pytest.raises(ModelError, match="is converted already"):
        subject_of(str(module[1].folder))
    with pytest.raises(UsageError, match="adapters are not converted"):
        subject_of("demo:vlm@torch?adapter=x")
    Path(tmp_path / "config.json").write_text('{"model_type": "llava"}')
    Path(tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="no safetensors weights"):
        subject_of(str(tmp_path))
