"""``workbench capture MODEL --inputs ...``: record what a model's layers put out, to compare with another's, here or elsewhere.

workbench capture demo:vlm@torch --inputs demo --keep
workbench capture demo:vlm@mlx --inputs reports/runs/capture-demo-vlm-torch-... --localise
workbench capture demo:stt@torch --inputs stt --limit 2 --keep
workbench capture demo:vlm@coreml --inputs reports/runs/capture-demo-vlm-torch-... --keep
workbench capture 'demo:vlm@tensorrt?precision=fp16' --inputs reports/runs/capture-demo-vlm-torch-... --keep
workbench capture onnx:./model.onnx --inputs arrays.npz
workbench parity reports/runs/capture-demo-vlm-torch-... reports/runs/capture-demo-vlm-mlx-...
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from workbench.errors import EXIT_ITEM_ERRORS, EXIT_OK


def add_parser(parsers: Any) -> None:
    parser = parsers.add_parser(
        "capture",
        help="record what a model's layers put out",
        description="Record what a model's layers put out on some inputs: statistics and sketches of each, values where asked for.",
        epilog="Compare two captures with `workbench parity`: it needs no runtime, so they may come from two machines.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="demo:vlm@torch, demo:stt@mlx, demo:vlm@coreml, demo:vlm@onnx, torch:ORG/NAME, mlx:./folder, coreml:./program.mlpackage, onnx:./model.onnx, tensorrt:./model.onnx, with options as in eval",
    )
    parser.add_argument(
        "--inputs",
        action="append",
        required=True,
        metavar="WHAT",
        help="a task or suite, an image (with --prompt), a sound, a .npz or .safetensors of named arrays, or a capture: its very arrays; of one program: a .npz, NAME=picture.png or random; repeatable",
    )
    parser.add_argument("--prompt", metavar="TEXT", help="what is asked about images")
    parser.add_argument(
        "--follow", type=Path, metavar="RUN", help="a recogniser reads this run's transcripts (default: the task's own references)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the first N items of each task (default 4)")
    parser.add_argument(
        "--layers",
        action="append",
        metavar="PATTERN",
        help="which layers, by name (text.block.3.attention) or module path, with * for anything; repeatable (default: embeddings, blocks, projector, norms, logits)",
    )
    parser.add_argument(
        "--keep", action="store_true", help="also keep the values, above 4 million a layer and input a sample of them"
    )
    parser.add_argument(
        "--also",
        action="append",
        metavar="DTYPE",
        help="run a torch model in this precision too: float64, float32, bfloat16, float16, or none (default: the next more exact one); a Core ML model off a Mac in this reading: float64, emulate, fp16-weights; one on ONNX Runtime: pure",
    )
    parser.add_argument(
        "--localise",
        action="store_true",
        help="with a capture as inputs: give each layer that capture's activations, to tell a layer that makes error from one that passes it on",
    )
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="where bundles go (default: reports/runs)")
    parser.add_argument("--fresh", action="store_true", help="start anew; a former capture is set aside, not deleted")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def run(arguments: argparse.Namespace) -> int:
    from workbench.capture import names
    from workbench.capture.inputs import DEFAULT_LIMIT
    from workbench.capture.session import AUTOMATIC, capture_layers
    from workbench.parity.text import printable
    from workbench.run.bundle import DEFAULT_RUNS
    from workbench.run.progress import automatic

    made = capture_layers(
        arguments.model,
        arguments.inputs,
        layers=arguments.layers or names.COARSE,
        keep=arguments.keep,
        also=arguments.also or (AUTOMATIC,),
        localise=arguments.localise,
        limit=DEFAULT_LIMIT if arguments.limit is None else arguments.limit,
        prompt=arguments.prompt,
        follow=arguments.follow,
        runs=arguments.runs or DEFAULT_RUNS,
        fresh=arguments.fresh,
        progress=automatic(),
    )
    results = made.results
    code = EXIT_ITEM_ERRORS if results["item_errors"] else EXIT_OK
    if arguments.json:
        print(
            json.dumps(
                {
                    "capture": str(made.folder),
                    "was_complete": made.was_complete,
                    "n": results["n"],
                    "layers": results["layers"],
                    "item_errors": results["item_errors"],
                }
            )
        )
        return code
    state = "is complete already" if made.was_complete else "done"
    print(f"{made.manifest['model']['text']}  {results['layers']} layers on {results['n']} inputs  {state}: {made.folder}")
    for line in made.items().values():
        if line["output"]["finish"] == "error":
            print(printable(f"{line['id']} failed: {line['output']['error']['what']} ({line['output']['error']['why']})"))
    if not arguments.localise:
        here = shlex.quote(str(made.folder))
        print(f"next: workbench capture ANOTHER_MODEL --inputs {here}, then workbench parity {here} ANOTHER_CAPTURE")
    return code
