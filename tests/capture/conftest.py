"""Captures of tiny LLaVA models, made once; ``planted`` damages the MLX model between loading and capturing."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch (pip install 'parity-workbench[torch]')")


@pytest.fixture(scope="session")
def llava(tmp_path_factory) -> Path:
    """A folder that torch and MLX load."""
    from tests.models.conftest import build

    return build(tmp_path_factory.mktemp("models") / "llava")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> list[Path]:
    """Two images of noise, not square."""
    import numpy
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    random = numpy.random.default_rng(3)
    paths = []
    for name, size in (("wide", (24, 48, 3)), ("tall", (40, 20, 3))):
        paths.append(folder / f"{name}.png")
        Image.fromarray(random.integers(0, 256, size, dtype=numpy.uint8)).save(paths[-1])
    return paths


@pytest.fixture(scope="session")
def reference(llava, pictures, tmp_path_factory):
    """The torch capture, with every part of every block, and values."""
    from workbench.capture import names
    from workbench.capture.session import capture_layers

    return capture_layers(
        f"torch:{llava}", pictures, prompt="what is here?", layers=names.FINE, keep=True, runs=tmp_path_factory.mktemp("reference")
    )


@pytest.fixture
def planted(monkeypatch, llava, reference, tmp_path):
    """``planted(fault, **settings)``: the capture of the MLX model with that fault in it, on the reference's inputs."""
    pytest.importorskip("mlx_vlm", reason="needs mlx-vlm (pip install 'parity-workbench[mlx]')")
    from workbench.backends import blas_route
    from workbench.capture import names, session

    # MLX's own matrix products are the independent evidence; a process in which another test opened torch's cannot go back.
    own = "" if blas_route._done else "?blas=off"
    real = session.open_model

    def run(fault=None, inputs=None, **settings):
        def opened(spec, family):
            model = real(spec, family)
            if fault is not None:
                fault(model.model)
            return model

        with contextlib.ExitStack() as stack:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setattr(session, "open_model", opened)
            name = getattr(fault, "__name__", "untouched") + str(sorted(settings))
            chosen = {"layers": names.FINE, "keep": True} | settings
            return session.capture_layers(
                f"mlx:{llava}{own}", reference if inputs is None else inputs, runs=tmp_path / name, **chosen
            )

    return run
