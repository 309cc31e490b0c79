"""Models from the hub, with the hub played by stand-ins: no network."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, constants, errors

from workbench.errors import ModelError
from workbench.models import source
from workbench.types import ModelSpec

SPEC = ModelSpec.parse("torch:someone/something@abc")


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    monkeypatch.setattr(source, "_resolved", {})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN", raising=False)


def refuse(monkeypatch, error: Exception) -> str:
    def model_info(*_, **__):
        raise error

    monkeypatch.setattr(HfApi, "model_info", model_info)
    with pytest.raises(ModelError) as caught:
        source.resolve(SPEC)
    return str(caught.value)


def hub_error(kind: type, status: int) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, "refused")
    error.response = SimpleNamespace(status_code=status)
    return error


@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [
        (errors.GatedRepoError, 403, "accept its licence at https://huggingface.co/someone/something"),
        (errors.RepositoryNotFoundError, 404, "was not found"),
        (errors.RevisionNotFoundError, 404, "no revision 'abc'"),
        (errors.HfHubHTTPError, 401, "export HF_TOKEN"),
        (errors.HfHubHTTPError, 503, "the hub answered 503"),
    ],
)
def test_refusals(monkeypatch, kind, status, words):
    assert words in refuse(monkeypatch, hub_error(kind, status))


def test_no_network(monkeypatch):
    assert "cannot be reached" in refuse(monkeypatch, ConnectionError("Name or service not known"))


def test_offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as caught:
        source.resolve(SPEC)
    assert "HF_HUB_OFFLINE" in str(caught.value)


def test_download_is_announced_and_pinned(monkeypatch, tmp_path, capsys):
    import huggingface_hub

    files = [
        SimpleNamespace(rfilename=name, size=size)
        for name, size in (("model.safetensors", 2_000_000_000), ("onnx/big.json", 9), ("a.bin", 5))
    ]
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: SimpleNamespace(id="someone/something", sha="f" * 40, siblings=files))
    asked = {}

    def snapshot_download(**arguments):
        asked.update(arguments)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    found = source.resolve(SPEC)
    assert found.revision == "f" * 40 == asked["revision"] and found.source == "someone/something"
    assert "2.00 GB (2,000,000,000 bytes)" in capsys.readouterr().err
    assert "*.bin" not in asked["allow_patterns"] and "*.py" not in asked["allow_patterns"]


def test_hub_blobs_are_known_by_name(tmp_path):
    from workbench.models.checkpoint import file_hash

    blob = tmp_path / "blobs" / ("a" * 64)
    blob.parent.mkdir()
    blob.write_bytes(b"x")
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    assert file_hash(link) == "a" * 64
