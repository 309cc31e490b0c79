"""The modules for Hugging Face ``evaluate``: loaded from a folder without a network, equal to our own call."""

import socket
import sys

import pytest

from workbench.errors import UsageError
from workbench.metrics.transcripts import evaluate_module, word_error_rate

REFERENCES = ["Mr. Smith's colour TV costs twenty dollars.", "turn it off", "white paper"]
HEARD = ["mister smith is color tv costs $20", "turn of", "whitepaper"]
BOTH = {"references": REFERENCES, "predictions": HEARD}


@pytest.fixture
def load(tmp_path, monkeypatch):
    """``load("wer")`` where every connection is an error and nothing is written outside a temporary folder."""
    evaluate = pytest.importorskip("evaluate", reason="needs evaluate: pip install 'parity-workbench[speech]'")

    def refuse(*_, **__):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", tmp_path / "modules")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield lambda name: evaluate.load(str(evaluate_module(name)), cache_dir=str(tmp_path / "cache"))
    for name in [name for name in sys.modules if name.split(".")[0] == "evaluate_modules"]:
        del sys.modules[name]


def test_modules_load_offline_and_equal_the_function(load):
    wer, cer = load("wer"), load("cer")
    counted = []
    for profile in ("whisper", "oal-2026-08", "none"):
        expected = word_error_rate(REFERENCES, HEARD, profile=profile)
        expected.pop("per_item")
        assert wer.compute(**BOTH, profile=profile) == expected
        counted.append(expected["errors"])
    assert counted == [4, 3, 10]
    wer.add_batch(**BOTH)
    assert wer.compute(speakers=["a", "b", "a"])["intervals"].keys() == {"utterance", "speaker"}
    found = cer.compute(**BOTH, profile="none")
    assert found["cer"] == word_error_rate(REFERENCES, HEARD, profile="none")["cer"] and found["normaliser"]["id"] == "none"


def test_an_unknown_module_names_those_there_are():
    with pytest.raises(UsageError, match="bleu"):
        evaluate_module("bleu")
    assert not (evaluate_module("wer") / "__init__.py").exists()
