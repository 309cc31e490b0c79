"""Conversion on first use: once for all processes, found again only when all of it matches, and mended when it was damaged."""

import os
import sys
import traceback

import pytest

pytest.importorskip("coremltools")
pytest.importorskip("torch")

from tests.convert import staged_models
from tests.convert.small_modules import small
from workbench.convert import building
from workbench.convert.cache import cached, entry_of
from workbench.convert.coreml.build import CONVERTER, CoreML
from workbench.convert.coreml.cache import ensure
from workbench.convert.coreml.recipe import Recipe
from workbench.convert.subject import subject_of
from workbench.errors import ModelError, UsageError
from workbench.models.converted import MODEL_FILE, Converted
from workbench.registry import BUILT_IN_CONVERTERS, get_converter
from workbench.types import ModelSpec
from workbench.user_cache import cache_folder


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """(factory, a cache that holds its conversion): only to be copied."""
    folder = tmp_path_factory.mktemp("filled")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("WORKBENCH_CACHE", str(folder / "cache"))
        factory = small(folder)
        cached(CONVERTER, subject_of(factory), Recipe(), lambda text: None)
    return factory, folder / "cache"


@pytest.fixture
def cache(filled, tmp_path, monkeypatch):
    """The factory, with a copy of the filled cache in use."""
    import shutil

    shutil.copytree(filled[1], tmp_path / "cache")
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    return filled[0]


@pytest.fixture
def unconvertible(monkeypatch):
    """A conversion fails the test."""

    def convert(*given, **named):
        raise AssertionError("it was converted again")

    monkeypatch.setattr("workbench.convert.coreml.programs.convert_stage", convert)


def test_what_is_there_is_used(cache, unconvertible):
    done = cached(CONVERTER, subject_of(cache), Recipe(), pytest.fail)
    assert (
        done.reused
        and done.folder == entry_of(CONVERTER, subject_of(cache), Recipe())
        and done.folder.parent == cache_folder("coreml")
    )
    assert done.folder.name.startswith("small.py-make-") and len(done.folder.name) == len("small.py-make-") + 16
    assert {path.name for path in cache_folder("coreml").iterdir()} == {done.folder.name, f"{done.folder.name}.lock"}


@pytest.mark.parametrize("what", ["recipe", "source", "converter", "library"])
def test_another_recipe_source_or_version_is_another_entry(cache, tmp_path, monkeypatch, what):
    before = entry_of(CONVERTER, subject_of(cache), Recipe())
    subject, recipe = subject_of(cache), Recipe()
    if what == "recipe":
        recipe = Recipe(precision="fp16")
    elif what == "source":
        subject = subject_of(small(tmp_path, "\nchanged = True\n"))
    elif what == "converter":
        monkeypatch.setattr(CoreML, "number", CoreML.number + 1)
    else:
        monkeypatch.setattr(building, "versions", lambda names: dict.fromkeys(names, "99"))
    assert entry_of(CONVERTER, subject, recipe) != before


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["bit", "manifest", "other"])
def test_a_damaged_entry_is_set_aside_and_made_again(cache, damage):
    subject = subject_of(cache)
    entry = entry_of(CONVERTER, subject, Recipe())
    whole = Converted(entry).identity()
    if damage == "bit":
        flip(entry / "main.mlpackage" / MODEL_FILE)
    elif damage == "manifest":
        (entry / "converted.json").unlink()
    else:  # whole, and converted from something else
        text = (entry / "converted.json").read_text()
        (entry / "converted.json").write_text(text.replace(subject.weights, "0" * 64))
    said = []
    done = cached(CONVERTER, subject, Recipe(), said.append)
    assert not done.reused and done.artifact.identity() == whole
    assert (entry.parent / f"{entry.name}.damaged").is_dir() and "set aside" in said[0] and "converting" in said[1]
    assert said[-1].startswith("converted small.py:make for Core ML (fp32 iOS18)") and str(entry) in said[-1]


def test_two_processes_convert_once(filled, tmp_path, monkeypatch):
    if sys.platform != "linux":
        pytest.skip("elsewhere a process that has used torch is not forked")
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    subject = subject_of(filled[0])
    ready, go = os.pipe()
    children = []
    for number in range(2):
        pid = os.fork()
        if pid == 0:
            try:
                with open(tmp_path / f"{number}.txt", "w") as log:
                    os.close(go)
                    os.read(ready, 1)  # both begin when the parent closes its end
                    done = cached(CONVERTER, subject, Recipe(), lambda text, log=log: print(text, file=log))
                    print(f"in {done.folder}, reused {done.reused}", file=log)
                os._exit(0)
            except BaseException:  # noqa: BLE001  the child must not go on with the tests
                traceback.print_exc()
                os._exit(1)
        children.append(pid)
    os.close(ready)
    os.close(go)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
    first, second = sorted(
        ((tmp_path / f"{number}.txt").read_text() for number in range(2)), key=lambda text: "reused True" in text
    )
    entry = entry_of(CONVERTER, subject, Recipe())
    assert first.count("converting small.py:make") == 1 and f"in {entry}, reused False" in first
    assert "another process is converting small.py:make: waiting for it" in second and f"in {entry}, reused True" in second
    assert {path.name for path in cache_folder("coreml").iterdir()} == {entry.name, f"{entry.name}.lock"}


def test_a_spec_is_converted_by_its_recipe_options(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    source = staged_models.whisper(tmp_path / "tiny", encoder_layers=1, decoder_layers=1)
    assert (
        BUILT_IN_CONVERTERS.keys() == {"coreml", "onnx", "tensorrt"}
        and get_converter("coreml") is ensure
        and get_converter("torch") is None
    )
    spec = ModelSpec.parse(f"coreml:{source}?target=iOS17&units=CPU_ONLY&threads=1&context=&stateful=false")
    found = Converted(ensure(spec))
    assert (found.label, found.family, list(found.stages)) == ("fp32 iOS17", "speech-to-text", ["encoder", "step"])
    assert found.source["name"] == "tiny" and all(found.check[name]["same"] for name in found.stages)
    said = capsys.readouterr()
    assert said.out == "" and "converting tiny for Core ML (fp32 iOS17): encoder (1 of 2)" in said.err
    assert ensure(spec) == found.folder and capsys.readouterr().err == ""
    with pytest.raises(UsageError, match="int4-block32 cannot be stored for iOS17"):
        ensure(ModelSpec.parse(f"coreml:{source}?target=iOS17&quantize=int4-block32&stateful=false"))


def test_a_cache_that_cannot_be_written_says_where_and_what_to_type(filled, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="the cache .*file/coreml cannot be written") as caught:
        cached(CONVERTER, subject_of(filled[0]), Recipe(), pytest.fail)
    assert "WORKBENCH_CACHE" in caught.value.fix


def test_a_cache_that_can_only_be_read_serves_what_it_holds(cache, unconvertible, monkeypatch):
    from filelock import FileLock

    def acquire(self, *given, **named):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(FileLock, "acquire", acquire)
    assert cached(CONVERTER, subject_of(cache), Recipe(), pytest.fail).reused
    with pytest.raises(ModelError, match="cannot be written"):
        cached(CONVERTER, subject_of(cache), Recipe(precision="fp16"), pytest.fail)


def test_a_full_disk_names_the_cache_and_the_variable(cache, monkeypatch):
    import shutil

    class Usage:
        free = 10

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(ModelError, match="no space left to write") as caught:
        cached(CONVERTER, subject_of(cache), Recipe(precision="fp16"), lambda text: None)
    assert str(cache_folder("coreml")) in str(caught.value) and "WORKBENCH_CACHE" in caught.value.fix
    assert not list(cache_folder("coreml").glob(".*"))


def test_the_platforms_own_folder_without_the_variable(monkeypatch, tmp_path):
    monkeypatch.delenv("WORKBENCH_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder("coreml") == tmp_path / ".cache" / "parity-workbench" / "coreml"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder("coreml") == tmp_path / "Library" / "Caches" / "parity-workbench" / "coreml"
