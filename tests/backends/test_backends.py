"""What runtimes say about themselves."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from workbench.backends import process_memory
from workbench.backends.hardware import describe_hardware
from workbench.errors import RuntimeMissing, UsageError
from workbench.registry import backend_names, get_backend

NAMES = ("torch", "mlx")


@pytest.fixture(params=NAMES)
def runtime(request):
    backend = get_backend(request.param)
    if not backend.available().ok:
        pytest.skip(f"{request.param}: {backend.available().reason}")
    return backend


def test_built_in_names():
    assert set(NAMES) <= set(backend_names())
    with pytest.raises(UsageError):
        get_backend("abacus")


@pytest.mark.parametrize("name", NAMES)
def test_available_imports_no_runtime(name):
    code = (
        "import sys; from workbench.registry import get_backend\n"
        f"here = get_backend({name!r}).available(); print(here.ok, here.reason)\n"
        "assert not {'torch', 'mlx', 'mlx.core', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(("name", "package"), [("torch", "torch"), ("torch", "transformers"), ("mlx", "mlx"), ("mlx", "mlx-vlm")])
def test_unavailable_says_what_to_type(monkeypatch, name, package):
    real = metadata.version

    def version(asked):
        if asked == package:
            raise metadata.PackageNotFoundError(asked)
        return real(asked) if asked in ("numpy",) else "1.0"

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: object())
    here = get_backend(name).available()
    assert not here.ok and package in here.reason and here.fix == f"pip install 'parity-workbench[{name}]'"


def test_listed_but_gone(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda _: "1.0")
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    here = get_backend("torch").available()
    assert not here.ok and "module is missing" in here.reason


def test_broken_import_is_a_missing_runtime(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(RuntimeMissing) as caught:
        get_backend("torch").device({"device": "cpu"})
    assert caught.value.exit_code == 3


def test_cpu_device_is_host_evidence(runtime):
    options = {"device": "cpu"}
    runtime.prepare(options)
    device = runtime.device(options)
    assert device["kind"] == "cpu" and device["name"] and device["memory_bytes"] > 1e9
    assert runtime.evidence(options) == "host"
    runtime.synchronize()
    runtime.reset_peak_memory()
    assert runtime.peak_memory_bytes() > 10_000_000


def test_unknown_and_absent_devices(runtime):
    with pytest.raises(UsageError):
        runtime.device({"device": "abacus"})
    absent = {"torch": "cuda:77", "mlx": "gpu"}[runtime.name]
    if runtime.name == "mlx" and platform.system() == "Darwin":
        pytest.skip("every Mac has a GPU")
    with pytest.raises(RuntimeMissing):
        runtime.device({"device": absent})


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_peak_memory_follows_a_reset():
    block = bytearray(200_000_000)
    block[::4096] = b"x" * len(block[::4096])
    high = process_memory.peak_bytes()
    del block
    if not process_memory.reset():
        pytest.skip("this system does not let a process reset its peak")
    assert process_memory.peak_bytes() < high - 150_000_000
    assert process_memory.source() == process_memory.SOURCE_SINCE_RESET


def test_hardware_names_nobody(runtime):
    found = describe_hardware(runtime.name, {"device": "cpu"})
    text = json.dumps(found)
    assert platform.node() not in text or len(platform.node()) < 4
    assert str(Path.home()) not in text
    assert os.environ.get("USER") in (None, "", "root") or os.environ["USER"] not in text
    assert len(found["hardware_key"]) == 16 and found["hardware_key"] == describe_hardware()["hardware_key"]
    assert found["cores"] >= 1 and found["device"]["kind"] == "cpu"
