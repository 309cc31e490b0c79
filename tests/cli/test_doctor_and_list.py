"""``workbench doctor`` and ``workbench list`` say what is here, what is not, and what to type."""

import json
from importlib import metadata
from types import SimpleNamespace

import pytest

from tests.report.bundles import make_line, make_run
from workbench import registry
from workbench.backends.base import Availability
from workbench.cli import doctor
from workbench.cli.main import VERBS, main


def rows(capsys, *words):
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_doctor_names_every_runtime_and_why(capsys, monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("workbench.backends.torch.metadata.version", absent)
    found = {row["name"]: row for row in rows(capsys, "doctor")["runtimes"]}
    assert set(found) >= {"torch", "mlx"}
    assert not found["torch"]["ok"] and "not installed" in found["torch"]["reason"]
    assert "pip install 'parity-workbench[torch]'" in found["torch"]["fix"]


def test_a_runtime_that_is_installed_but_broken_breaks_nothing(capsys, monkeypatch):
    class Broken:
        def available(self):
            return Availability(True, "broken 1.0")

        def device(self, options):
            raise OSError("libwhatever.so: cannot open shared object file")

    monkeypatch.setitem(registry.BACKENDS, "broken", Broken)
    found = {row["name"]: row for row in rows(capsys, "doctor")["runtimes"]}
    assert not found["broken"]["ok"] and "libwhatever.so" in found["broken"]["reason"]


def test_doctor_warns_of_the_other_distribution(monkeypatch):
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "9.9" if name == "workbench" else "1")
    row = doctor.name_clash()
    assert not row["ok"] and "9.9" in row["reason"] and "pip uninstall workbench" in row["fix"]


def test_doctor_says_what_core_ml_packages_need(monkeypatch):
    def absent(name):
        if name == "coremltools":
            raise metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(doctor.metadata, "version", lambda name: "1")
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    here = doctor.programs()
    assert here["ok"] and "coremltools 1" in here["reason"] and "[onnx]" in here["reason"]
    for system, words in (("Linux", "evidence: reference; device takes a Mac"), ("Darwin", "evidence: device; host for CPU_ONLY")):
        monkeypatch.setattr(doctor.platform, "system", lambda system=system: system)
        assert words in doctor.programs()["reason"]
    monkeypatch.setattr(doctor.metadata, "version", absent)
    row = doctor.programs()
    assert not row["ok"] and "coremltools is not installed" in row["reason"] and "[coreml]" in row["fix"]


def test_doctor_says_what_onnx_graphs_give_here(monkeypatch):
    def absent(name):
        if name == "onnxruntime":
            raise metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(doctor.metadata, "version", lambda name: "1")
    monkeypatch.setattr(doctor, "onnx_providers", lambda: ["cpu", "cuda"])
    for engines, words in ((True, "as TensorRT's engines here too"), (False, "by reference, without times")):
        monkeypatch.setattr(doctor, "has_engines", lambda engines=engines: engines)
        row = doctor.graphs()
        assert row["ok"] and "ONNX Runtime 1 (cpu, cuda)" in row["reason"] and words in row["reason"]
    assert "pip install 'parity-workbench[tensorrt]'" in row["reason"]
    monkeypatch.setattr(doctor.metadata, "version", absent)
    row = doctor.graphs()
    assert not row["ok"] and "onnxruntime is not installed" in row["reason"] and "[onnx]" in row["fix"]


def test_the_listed_models_of_onnx_and_tensorrt_are_one_folders(capsys):
    found = {row["name"]: row["description"] for row in rows(capsys, "list", "models")["models"]}
    for runtime in ("onnx", "tensorrt"):
        assert f"demo:vlm@{runtime}" in found and "converted on first use" in found[f"demo:stt@{runtime}"]
        assert "workbench convert --to onnx" in found[f"{runtime}:SOURCE"]


def test_doctor_sees_offline_mode_and_low_disk(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "offline" in doctor.hub()["reason"]
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    assert not doctor.disk()["ok"]


def test_a_plugin_that_fails_to_import_is_reported(capsys, monkeypatch):
    def fail():
        raise RuntimeError("plugin is broken")

    monkeypatch.setattr(registry, "entry_points", lambda group: [SimpleNamespace(name="theirs", load=fail)])
    found = {row["name"]: row for row in rows(capsys, "doctor")["around them"]}
    assert found["plugin theirs"]["reason"] == "RuntimeError: plugin is broken" and not found["plugin theirs"]["ok"]


def test_list_shows_tasks_suites_models_and_no_runs_yet(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = rows(capsys, "list")
    assert {row["name"] for row in found["tasks"]} >= {"mmmu", "mmstar", "ocrbench", "mathvista", "mmmu-sample"}
    assert [row["name"] for row in found["suites"]] == ["demo", "stt"]
    models = {row["name"]: row["description"] for row in found["models"]}
    assert set(models) >= {"demo:vlm@torch", "demo:vlm@mlx", "demo:vlm@coreml", "demo:stt@coreml", "coreml:SOURCE"}
    assert "converted on first use" in models["demo:stt@coreml"] and "workbench convert --to coreml" in models["coreml:SOURCE"]
    assert found["runs"] == []
    assert main(["list", "runs"]) == 0
    assert "none in reports/runs" in capsys.readouterr().out


def test_list_runs_names_a_damaged_run_and_lists_the_others(capsys, tmp_path):
    for name in ("a", "b"):
        make_run(tmp_path, f"demo:{name}", [make_line("1")])
    damaged, whole = sorted(tmp_path.iterdir())
    for text in ("{", '{"headline": 5}'):
        (damaged / "results.json").write_text(text)
        found = {row["name"]: row["description"] for row in rows(capsys, "list", "runs", "--runs", str(tmp_path))["runs"]}
        assert found[whole.name].startswith("complete: 100.00 %")
        assert found[damaged.name].startswith("damaged: ") and "workbench verify" in found[damaged.name]


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_plain_text(verb, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: workbench {verb}") and "``" not in shown
