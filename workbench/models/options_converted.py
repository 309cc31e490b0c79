"""Options of models that are converted for a runtime: what the conversion is asked for, and how the runtime runs what came of it.

    RECIPES["onnx"]["precision"]        # ("fp32", "fp32, fp16, bf16 or int8-qdq: ...")
    CHOICES["tensorrt", "executor"]     # ("auto", "engine", "reference")

Plain tables, read by ``workbench.models.options``. A recipe's options make another program; all others run the same one otherwise.
"""

from __future__ import annotations

BATCH_SIZE = {"batch_size": ("1", "requests answered together")}

CONTEXT = {"context": ("", "positions of the cache; empty: the model's own")}

COREML_RECIPE = {
    "precision": ("fp32", "fp32 or fp16: the arithmetic of the converted program"),
    "quantize": ("", "int8, int4-block32, palette4, palette6 or prune50: how its weights are stored; empty: as they are"),
    "target": ("iOS18", "iOS17 or iOS18: the oldest system that is to run it"),
    "stateful": ("", "true: the program keeps the cache itself; empty: true where the target can"),
    "keep_fp32": ("", "what stays fp32 in fp16: ops or layers, separated by commas"),
} | CONTEXT
"""What a model is converted with, on its first use; of a converted folder they must be what it was made with."""

ONNX_RECIPE = {
    "precision": ("fp32", "fp32, fp16, bf16 or int8-qdq: the types of the graph"),
    "keep_fp32": ("", "what stays fp32 beside norms and softmax: op types, values or layers, separated by commas"),
    "calibration": ("", "max, entropy or percentile: how int8-qdq finds the ranges of activations; empty: max"),
    "calibrate": (
        "",
        "tasks, suites or files whose inputs int8-qdq sees, separated by commas; empty: the bundled suite of a demo model",
    ),
    "calibrate_limit": ("", "items that it sees, spread over them; empty: 16"),
    "dynamic": ("", "batch and seq, separated by commas, or none: sizes that may vary; empty: seq"),
    "opset": ("", "the ONNX opset; empty: 20, and 22 for bf16"),
} | CONTEXT
"""The same for the typed graph that ONNX Runtime and TensorRT both read."""

RECIPES = {"coreml": COREML_RECIPE, "onnx": ONNX_RECIPE, "tensorrt": ONNX_RECIPE}

RUNNING = {
    "coreml": {
        "units": ("", "CPU_ONLY, CPU_AND_GPU, CPU_AND_NE or ALL: what Core ML may use, on a Mac; empty: ALL"),
        "executor": ("auto", "auto: the device on a Mac, else the reference executor; reference: that one everywhere"),
        "reading": ("", "native, emulate, fp16-weights or float64: how the reference executor computes floats"),
        "threads": ("", "CPU threads of the reference executor"),
        "timeout": ("", "seconds that the device may take to load, or to answer once"),
    },
    "onnx": {
        "provider": (
            "",
            "cpu, cuda, coreml, openvino, ...: what ONNX Runtime runs it on, where it is installed with it; empty: cpu",
        ),
        "reading": ("", "optimised: as ONNX Runtime runs it; pure: the graph as it is written, no op fused; empty: optimised"),
        "executor": (
            "auto",
            "auto: ONNX Runtime, and ONNX's reference evaluator where the graph holds bfloat16; onnxruntime; reference",
        ),
        "threads": ("", "CPU threads"),
    },
    "tensorrt": {
        "executor": (
            "auto",
            "auto: an engine where TensorRT and a CUDA GPU are, else the graph it would build, by reference; engine; reference",
        ),
        "device": ("", "the GPU's number; empty: 0"),
        "profile": ("", "sizes that the engine is built for, beside those of the conversion"),
        "workspace": ("", "memory that its kernels may use, such as 4GiB; empty: TensorRT's own limit"),
        "opt_level": ("", "0 to 5: TensorRT's effort in building; empty: its own"),
        "timing_cache": ("auto", "auto, off or a file: measured times of kernels, kept from build to build"),
        "tf32": ("false", "true: products of float32 are computed in TF32"),
        "refit": ("false", "true: the engine's weights can be exchanged"),
        "cuda_graph": ("false", "true: each shape's work is recorded once and replayed as one CUDA graph"),
        "timeout": ("", "seconds that its build may take"),
        "threads": ("", "CPU threads of the reference"),
    },
}
"""How it is run; none of these makes another program."""

TABLES = {name: RECIPES[name] | options | BATCH_SIZE for name, options in RUNNING.items()}

YES_OR_NO = ("true", "false")
ONNX_PRECISIONS = ("fp32", "fp16", "bf16", "int8-qdq")
CHOICES = {
    ("coreml", "precision"): ("fp32", "fp16"),
    ("coreml", "quantize"): ("", "int8", "int4-block32", "palette4", "palette6", "prune50", "none"),
    ("coreml", "target"): ("iOS18", "iOS17"),
    ("coreml", "stateful"): ("", "true", "false"),
    ("coreml", "units"): ("", "CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE", "ALL"),
    ("coreml", "executor"): ("auto", "reference"),
    ("coreml", "reading"): ("", "native", "emulate", "fp16-weights", "float64"),
    ("onnx", "precision"): ONNX_PRECISIONS,
    ("onnx", "calibration"): ("", "max", "entropy", "percentile"),
    ("onnx", "reading"): ("", "optimised", "pure"),
    ("onnx", "executor"): ("auto", "onnxruntime", "reference"),
    ("tensorrt", "precision"): ONNX_PRECISIONS,
    ("tensorrt", "calibration"): ("", "max", "entropy", "percentile"),
    ("tensorrt", "executor"): ("auto", "engine", "reference"),
    ("tensorrt", "tf32"): YES_OR_NO,
    ("tensorrt", "refit"): YES_OR_NO,
    ("tensorrt", "cuda_graph"): YES_OR_NO,
}

SHORT = {"float32": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16", "int8": "int8-qdq", "optimized": "optimised"}
"""What users of other runtimes type for a choice."""

NUMBERS = ("context", "calibrate_limit", "opset")

NOT_IN_KEY = {"coreml": ("timeout",), "tensorrt": ("timeout", "timing_cache")}
"""Options that cannot change an answer. A timing cache may change which kernels are chosen; so does every build, with one or without."""

ONE_SET = "leave it out: the cache goes in and out as arrays"
INSTEAD = {
    ("coreml", "dtype"): "?precision=fp16",
    ("coreml", "device"): "?units=CPU_AND_GPU, on a Mac",
    ("onnx", "dtype"): "?precision=fp16",
    ("onnx", "device"): "?provider=cuda",
    ("onnx", "tf32"): "tensorrt:SOURCE?tf32=true",
    ("onnx", "units"): "?provider=coreml, on a Mac; compute units belong to coreml models",
    ("onnx", "quantize"): "?precision=int8-qdq",
    ("onnx", "target"): "?opset=20",
    ("onnx", "stateful"): ONE_SET,
    ("tensorrt", "dtype"): "?precision=fp16",
    ("tensorrt", "units"): "leave it out: compute units belong to coreml models",
    ("tensorrt", "quantize"): "?precision=int8-qdq",
    ("tensorrt", "target"): "?opset=20",
    ("tensorrt", "stateful"): ONE_SET,
    ("tensorrt", "provider"): "onnx:SOURCE?provider=cuda, which runs the same graph by ONNX Runtime",
    ("tensorrt", "reading"): "onnx:SOURCE?reading=pure, which runs the same graph by ONNX Runtime",
}
"""What another runtime's option is called here."""
