"""An ONNX twin: ONNX Runtime on the CPU, every value of the graph as an output, and no optimisation, so that what is compared is the
graph as it is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.capture.tensor_entries import tensor_entry
from workbench.capture.twins import Values, matched_inputs, missing
from workbench.errors import UsageError
from workbench.fingerprint import of_file, of_json

FIX = "pip install onnx onnxruntime"
FOLDER = "session.model_external_initializers_file_folder_path"
"""The session's entry that says where a model given as bytes keeps its weights (onnxruntime_session_options_config_keys.h)."""
NUMPY = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


class OnnxTwin:
    """Float32 or float16, as the graph's inputs and weights are."""

    backend, evidence, libraries = "onnxruntime", "host", ("onnxruntime", "onnx", "numpy")
    counted, exported = False, True

    def __init__(self, path: Path):
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise missing(error.name or "onnxruntime", FIX) from error
        self.path, self.label = path, f"onnx:{path.name}"
        self.renamed: dict[str, str] = {}
        self.notes: list[str] = []
        try:
            model = onnx.load(path, load_external_data=False)
            self.named = [output.name for output in model.graph.output]
            made = dict.fromkeys(name for node in model.graph.node for name in node.output if name and name not in self.named)
            model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.log_severity_level = 3
            options.add_session_config_entry(FOLDER, str(path.resolve().parent))
            self.session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # both libraries raise their own kinds, all of them about the file
            raise UsageError(
                f"{path.name} cannot be run by ONNX Runtime", why=f"{type(error).__name__}: {error}"[:400], fix=FIX + " --upgrade"
            ) from error
        self.model = model
        self.external = sorted(
            {
                entry.value
                for each in model.graph.initializer
                for entry in each.external_data
                if entry.key == "location" and (path.parent / entry.value).is_file()
            }
        )
        held = [path, *(path.parent / name for name in self.external)]
        self.identity = {
            "source": path.name,
            "weights": of_file(path) if not self.external else of_json([of_file(each) for each in held]),
            "size_bytes": sum(each.stat().st_size for each in held),
        }
        kinds = {onnx.TensorProto.DataType.Name(each.data_type) for each in model.graph.initializer}
        self.precisions = ["float16" if "FLOAT16" in kinds and "FLOAT" not in kinds else "float32"]

    @property
    def inputs(self) -> list[str]:
        return [each.name for each in self.session.get_inputs()]

    def tensors(self) -> dict[str, Any]:
        from onnx import numpy_helper
        from onnx.external_data_helper import load_external_data_for_tensor

        found = {}
        for each in self.model.graph.initializer:
            if each.external_data:
                each = type(each).FromString(each.SerializeToString())  # noqa: PLW2901  the graph keeps its references
                load_external_data_for_tensor(each, str(self.path.parent))
            array = numpy_helper.to_array(each)
            if array.dtype.kind in "fiub":
                found[each.name] = tensor_entry(array)
        return found

    def run(self, arrays: Mapping[str, Any], precision: str) -> Values:
        import numpy

        names = matched_inputs(self.inputs, arrays, self.renamed)
        kinds = {each.name: NUMPY.get(each.type, "float32") for each in self.session.get_inputs()}
        fed = {twin: numpy.asarray(arrays[name]).astype(kinds[twin]) for name, twin in names.items()}
        try:
            results = self.session.run(None, fed)
        except Exception as error:  # ONNX Runtime's errors have no common base of their own
            raise UsageError(
                f"{self.path.name} failed on these inputs", why=str(error)[:400], fix="give it inputs with --inputs X.npz"
            ) from error
        found = {each.name: value for each, value in zip(self.session.get_outputs(), results, strict=True)}
        return Values(
            {name: found[name] for name in self.named},
            {
                name: value
                for name, value in found.items()
                if name not in self.named and hasattr(value, "dtype") and value.dtype.kind == "f"
            },
        )
