"""Speech to text as a user types it: what is listed, what doctor says, an own eval with a broken file, its report line and exit code."""

from __future__ import annotations

import json
from importlib import metadata

import pytest

from workbench.cli import doctor
from workbench.cli.main import main
from workbench.suites import load_suite

OWN = """
from dataclasses import replace
from types import SimpleNamespace
from workbench import task
from workbench.tasks.catalogue import load_task
from workbench.types import Loaded, Media

@task
def own():
    found = load_task("asr-sample")
    first, second = found.load(2).samples
    broken = replace(second, inputs={"audio": Media(data=b"RIFF: a text", kind="audio")})
    card = SimpleNamespace(name="own", load=lambda limit=None, sample_ids=None: Loaded([first, broken], "1", "1"))
    return replace(found, name="own-asr", card=card)
"""


def test_the_suite_and_the_demo_models_are_listed(capsys):
    assert load_suite("stt").tasks == ("asr-sample",)
    assert main(["list", "--json"]) == 0
    found = {kind: [row["name"] for row in rows] for kind, rows in json.loads(capsys.readouterr().out).items()}
    assert {"demo:stt@torch", "demo:stt@mlx", "demo:vlm@torch"} <= set(found["models"])
    assert "stt" in found["suites"] and "asr-sample" in found["tasks"]


@pytest.mark.parametrize("missing", ["soundfile", "soxr"])
def test_doctor_says_what_speech_lacks(missing, monkeypatch):
    versions = {"soundfile": "1", "soxr": "2", "av": "3", "mlx-whisper": "4", "mlx-audio": "5"}
    del versions[missing]

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(doctor.metadata, "version", version)
    row = doctor.speech()
    assert not row["ok"] and missing in row["reason"] and "parity-workbench[speech]" in row["fix"]
    versions[missing] = "6"
    row = doctor.speech()
    assert row["ok"] and "mlx-whisper 4, mlx-audio 5" in row["reason"] and row["fix"] is None
    del versions["av"], versions["mlx-whisper"]
    row = doctor.speech()
    assert row["ok"] and "no av: m4a" in row["reason"] and "mlx-whisper" not in row["reason"]


def test_a_broken_file_is_an_item_error_and_exit_code_6(tmp_path, monkeypatch, capsys):
    for name in ("torch", "soundfile", "soxr"):
        pytest.importorskip(name, reason="pip install 'parity-workbench[torch,speech]'")
    from tests.models.tiny_speech import whisper

    folder = whisper(tmp_path / "tiny-whisper")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_asr.py").write_text(OWN)
    typed = ["eval", "own_asr.py", "--model", f"torch:{folder}", "--max-tokens", "6", "--runs", "runs"]
    assert main(typed) == 6
    said = capsys.readouterr()
    assert "1 items failed; the first is" in said.out and "--retry-errors" in said.out and "WER" in said.out
    assert "WER" in said.err and "(whisper 1, " in said.err, "the progress line names the profile"
    (run,) = (tmp_path / "runs").iterdir()
    assert main(["verify", str(run), "--task", "own_asr.py"]) == 0
    assert "gives the same scores and results" in capsys.readouterr().out
    assert main(["list", "runs", "--runs", "runs"]) == 0
    assert "errors in" in (out := capsys.readouterr().out) and "WER" in out and "whisper 1" in out
    assert main([*typed, "--json"]) == 6
    (row,) = json.loads(capsys.readouterr().out)["runs"]
    assert row["was_complete"] and row["profile"] == "whisper" and row["item_errors"] == 1
