"""The names we use of TensorRT's module: in the Protocol, in the dated table of its public binding sources, in our sources, in the stand-in."""

import ast
import json
import sys
import types
from pathlib import Path

import pytest

from tests.backends import tensorrt_scan
from tests.backends.tensorrt_stand_in import VERSIONS, stand_in
from workbench.backends import tensorrt_api, tensorrt_arrays
from workbench.errors import RuntimeMissing

HERE = Path(tensorrt_api.__file__).parent
MEMBERS, PARAMETERS = tensorrt_scan.protocols(HERE / "tensorrt_api.py")
TABLE = json.loads((HERE / "tensorrt_names.json").read_text())
OWNERS = {"ILogger.Severity": "Severities", None: "TensorRT"}
ROWS = {(OWNERS.get(row["class"], row["class"]), row["member"]): row for row in TABLE["members"]}
PUBLIC = {(owner, name) for owner, members in MEMBERS.items() for name in members}
BY_NAME = {("TensorRT", "DataType"), ("TensorRT", "__version__")} | {("DataType", name) for name in MEMBERS["DataType"]}
"""Used, though by no attribute of that name: types are told by their names."""


def test_the_protocol_is_the_table():
    assert set(ROWS) == PUBLIC


def test_methods_take_what_the_sources_say():
    for key, names in PARAMETERS.items():
        said = ROWS[key]["arguments"]
        if key[0] == "IOutputAllocator":  # called by the library, which documents no names
            continue
        assert names == said[: len(names)], key
        assert len(names) == len(said) or key == ("ICudaEngine", "create_execution_context"), key  # its strategy has a default


def test_the_table_says_where_each_name_was_read():
    assert set(TABLE["sources"]) == {"10.0", "10.16", "11.1"}
    for source in TABLE["sources"].values():
        assert len(source["commit"]) == 40 and source["date"] < TABLE["read"]
    for key, row in ROWS.items():
        assert row["until"] is None and row["in_wheel"], key  # nothing that is gone is used
        assert row["file"].startswith("python/")
        assert (
            set(row["lines"]) == ({"10.16", "11.1"} if row["since"] != "10.0" else {"10.0", "10.16", "11.1"})
            or key[1] == "__version__"
        )
    assert {key: row["since"] for key, row in ROWS.items() if row["since"] != "10.0"} == {
        ("ICudaEngine", "device_memory_size_v2"): "10.1"
    }


def test_our_sources_use_those_names_and_no_other():
    sources = sorted(HERE.glob("tensorrt*.py"))
    used, wrong = tensorrt_scan.used(sources, MEMBERS)
    assert wrong == []
    assert used | BY_NAME == PUBLIC and not (used & BY_NAME) - {("TensorRT", "DataType")}
    gone = {name.rpartition(".")[2] for name in TABLE["gone_in_11"]}
    assert not gone & {name for _, name in used} and {"FP16", "int8_calibrator"} <= gone


@pytest.mark.parametrize(
    "source",
    [
        "def f(api: Api):\n    trt = api.module\n    return trt.Builder(api.logger).platform_has_fast_fp16",
        "def f(engine: ICudaEngine | None):\n    return engine.create_execution_context().execute_v2([])",
        "class A:\n    def __init__(self, api: Api):\n        self.api = api\n    def f(self):\n        self.api.module.BuilderFlag.FP16",
        "def f(parser: OnnxParser):\n    errors = [parser.get_error(i) for i in range(3)]\n    for each in errors:\n        each.file()",
        "def f(api: Api):\n    base = api.module.IProgressMonitor\n    class P(base):\n        def phase_begin(self):\n            pass",
        "def f(engine: ICudaEngine):\n    return hasattr(engine, 'device_memory_size')",
    ],
)
def test_the_scan_sees_a_name_that_is_not_in_the_protocol(source, tmp_path):
    path = tmp_path / "tensorrt_other.py"
    path.write_text(source)
    assert ast.parse(source)
    assert len(tensorrt_scan.used([path], MEMBERS)[1]) == 1


def test_types_are_those_that_arrays_can_have():
    assert set(MEMBERS["DataType"]) == set(tensorrt_arrays.TYPES)


@pytest.mark.parametrize("version", ["10.0.1.6", VERSIONS[10], VERSIONS[11]])
def test_the_stand_in_has_the_names_of_its_release(version):
    trt = stand_in(version)
    release = tuple(int(part) for part in version.split(".")[:2])
    for (owner, name), row in ROWS.items():
        here = (
            trt
            if owner == "TensorRT"
            else trt.ILogger.Severity
            if owner == "Severities"
            else getattr(trt, owner, None) or trt.parts[owner]
        )
        since = tuple(int(part) for part in row["since"].split("."))
        if row["kind"] == "callback":
            continue  # the subclass brings them
        assert hasattr(here, name) == (release >= since), (owner, name)
    for owner, part in trt.parts.items():
        public = {name for name in vars(part) if not name.startswith("_")} if isinstance(part, type) else set()
        assert public - {"settable"} <= set(MEMBERS.get(owner, ())) or owner == "ErrorCode", owner
    gone = [name for name in TABLE["gone_in_11"] if name.startswith("BuilderFlag.")]
    assert any(hasattr(trt.BuilderFlag, name.partition(".")[2]) for name in gone) == (release < (11, 0))


def test_the_stand_in_is_strict():
    trt = stand_in()
    api = tensorrt_api.looked_over(trt)
    builder = trt.Builder(api.logger)
    config = builder.create_builder_config()
    for wrong in (lambda: builder.build_engine, lambda: setattr(config, "int8_calibrator", 1), lambda: trt.BuilderFlag.FP16):
        with pytest.raises(AttributeError):
            wrong()
    for wrong in (
        lambda: builder.create_network("0"),
        lambda: config.set_flag(1),
        lambda: trt.Builder(object()),
        lambda: config.set_memory_pool_limit(1, 2),
    ):
        with pytest.raises((TypeError, AssertionError)):
            wrong()
    with pytest.raises(TypeError, match="__init__"):
        config.progress_monitor = type("Forgot", (trt.IProgressMonitor,), {"__init__": lambda self: None})()
    with pytest.raises(AssertionError, match="weakly typed"):
        old = tensorrt_api.looked_over(stand_in(VERSIONS[10]))
        old.module.Builder(old.logger).create_network(0)


def test_types_are_asked_for_where_that_can_be_asked():
    for version in VERSIONS.values():
        assert tensorrt_api.looked_over(stand_in(version)).network_flags() == 2
    trt = stand_in("12.0.0.1")
    trt.NetworkDefinitionCreationFlag = types.SimpleNamespace()
    api = tensorrt_api.looked_over(trt)
    assert api.network_flags() == 0 and api.major == 12


def test_memory_of_a_context_is_told_from_10_1_on():
    assert tensorrt_api.looked_over(stand_in()).device_memory_bytes(types.SimpleNamespace(device_memory_size_v2=12)) == 12
    assert tensorrt_api.looked_over(stand_in("10.0.1.6")).device_memory_bytes(types.SimpleNamespace()) is None


def test_what_tensorrt_says_is_kept():
    trt = stand_in()
    api = tensorrt_api.looked_over(trt)
    levels = trt.ILogger.Severity
    with api.listening() as outer:
        api.logger.log(levels.INFO, "first")
        with api.listening() as messages:
            for level, text in ((levels.VERBOSE, "noise"), (levels.WARNING, "a  warning\nof two lines"), (levels.ERROR, "one")):
                api.logger.log(level, text)
            assert tensorrt_api.worst(messages) == "one"
            api.logger.log(levels.INTERNAL_ERROR, "two")
        api.logger.log(levels.ERROR, "later")
    assert [each["severity"] for each in messages] == ["WARNING", "ERROR", "INTERNAL_ERROR"]
    assert tensorrt_api.worst(messages) == "two; one" and tensorrt_api.worst(messages[:1]) == "a warning of two lines"
    assert len(outer) == 5 and outer[0] == {"severity": "INFO", "text": "first"} and tensorrt_api.worst([]) == ""
    with api.listening() as many:
        for number in range(tensorrt_api.KEPT_MESSAGES + 50):
            api.logger.log(levels.INFO, str(number))
        api.logger.log(levels.WARNING, "and a warning")
    assert len(many) == tensorrt_api.KEPT_MESSAGES + 1


@pytest.fixture
def importing(monkeypatch, tmp_path):
    """``importing(source)``: import a module ``tensorrt`` of that source, or none."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)

    def do(source=None):
        tensorrt_api.import_tensorrt.cache_clear()
        if source is not None:
            (tmp_path / "tensorrt.py").write_text(source)
        return tensorrt_api.import_tensorrt()

    yield do
    tensorrt_api.import_tensorrt.cache_clear()
    sys.modules.pop("tensorrt", None)


@pytest.mark.parametrize(
    ("source", "what", "why"),
    [
        ("import tensorrt_bindings_absent", "installed without its libraries", "No module named 'tensorrt_bindings_absent'"),
        (
            "raise ImportError('libnvinfer.so.11: cannot open shared object file')",
            "installed without its libraries",
            "libnvinfer.so.11",
        ),
        ("raise OSError('libcudart.so.13: no such file')", "installed without its libraries", "libcudart.so.13"),
        ("__version__ = '8.6.1'", "TensorRT 8.6.1 is too old", "from 10 on"),
        ("", "TensorRT without a version is too old", "keep the types"),
        ("__version__ = '11.4.0.106'\nclass Runtime: pass", "lacks ILogger, Builder, OnnxParser", "lean or dispatch"),
        ("__version__ = '13.0.1'", "lacks ILogger", "this one is newer"),
    ],
)
def test_a_module_that_cannot_be_used(importing, source, what, why):
    with pytest.raises(RuntimeMissing) as caught:
        importing(source)
    assert what in caught.value.what and why in caught.value.why
    assert "pip install" in caught.value.fix and "parity-workbench[tensorrt]" in caught.value.fix


def test_without_the_module(importing):
    if "tensorrt" not in sys.modules and not any(Path(folder, "tensorrt").is_dir() for folder in sys.path):
        with pytest.raises(RuntimeMissing, match="TensorRT is not installed here") as caught:
            importing()
        assert caught.value.fix == tensorrt_api.FIX and caught.value.exit_code == 3


def test_with_the_module(importing, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in())
    assert importing().version == VERSIONS[11]
