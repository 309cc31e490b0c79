"""The BLAS route: what is opened, when, and that it changes speed, not answers. Each case needs a process of its own."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import textwrap

import pytest

from workbench.backends import blas_route
from workbench.errors import UsageError

pytest.importorskip("mlx.core", reason="needs mlx (pip install 'parity-workbench[mlx]')")
needs_route = pytest.mark.skipif(
    not blas_route.on_linux_x86() or blas_route.library_path() is None, reason="the route needs Linux on x86 and torch's library"
)


def run(code: str) -> dict:
    """The JSON that ``code`` prints last, in a fresh Python."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


MULTIPLY = """
    import json, sys, time
    from workbench.registry import get_backend
    done = get_backend("mlx").prepare({options})
    imported = "torch" in sys.modules
    import numpy, mlx.core as mx
    random = numpy.random.default_rng(0)
    left, right = (mx.array(random.standard_normal((512, 512)).astype("float32")) for _ in range(2))
    mx.eval(left @ right)
    times = []
    for _ in range(5):
        began = time.perf_counter(); product = left @ right; mx.eval(product); times.append(time.perf_counter() - began)
    exact = numpy.array(left).astype("float64") @ numpy.array(right).astype("float64")
    error = float(abs(numpy.array(product) - exact).max() / abs(exact).max())
    print(json.dumps({{"done": done, "imported": imported, "seconds": min(times), "error": error}}))
"""


@needs_route
def test_route_is_faster_and_as_exact_without_importing_torch():
    route, control = (run(MULTIPLY.format(options=options)) for options in ({}, {"blas": "off"}))
    assert route["done"]["blas_route"] == "torch" and route["done"]["library"] == "libtorch_cpu.so" and route["done"]["torch"]
    assert control["done"] == {"blas_route": "off"}
    assert not route["imported"] and not control["imported"]
    assert route["error"] < 1e-5 and control["error"] < 1e-5
    assert route["seconds"] * 3 < control["seconds"]


@needs_route
def test_too_late_is_said():
    code = """
        import json, mlx.core
        from workbench.registry import get_backend
        from workbench.errors import RuntimeMissing
        mlx = get_backend("mlx")
        done = mlx.prepare({})
        try:
            mlx.prepare({"blas": "torch"})
        except RuntimeMissing as error:
            print(json.dumps({"done": done, "why": error.why}))
    """
    found = run(code)
    assert found["done"] == {"blas_route": "off", "blas_reason": "mlx was imported already"}
    assert found["why"] == "mlx was imported already"


@needs_route
def test_a_process_keeps_its_route():
    code = """
        import json
        from workbench.registry import get_backend
        from workbench.errors import RuntimeMissing
        mlx = get_backend("mlx")
        first = mlx.prepare({})
        import mlx.core
        again = get_backend("mlx").prepare({"blas": "torch"})
        try:
            get_backend("mlx").prepare({"blas": "off"})
        except RuntimeMissing as error:
            print(json.dumps({"same": first == again, "what": error.what}))
    """
    assert run(code) == {"same": True, "what": "blas=off cannot be had"}


@needs_route
def test_route_after_torch_was_imported():
    code = """
        import json, torch
        from workbench.registry import get_backend
        print(json.dumps(get_backend("mlx").prepare({})))
    """
    assert run(code)["blas_route"] == "torch"


def test_unknown_choice():
    with pytest.raises(UsageError):
        blas_route.prepare("mkl")


@pytest.mark.skipif(platform.system() == "Darwin", reason="MLX has its own BLAS on a Mac")
def test_without_the_library(monkeypatch):
    monkeypatch.setattr(blas_route, "_done", {})
    monkeypatch.setattr(blas_route, "library_path", lambda: None)
    monkeypatch.delitem(sys.modules, "mlx.core", raising=False)
    assert blas_route.prepare(None)["blas_route"] == "off"
