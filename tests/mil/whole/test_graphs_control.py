"""Programs that decide while they run: loops whose rounds depend on the numbers, branches, and loops within branches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn

from tests.mil.building import freeze_imports
from tests.mil.whole.comparing import FP32, TIMES_HALF, outputs, relative
from workbench.mil import load
from workbench.mil.graph import walk


class Iteration(nn.Module):
    """The largest eigenvalue of a matrix by the power method, until the vector rests; a branch on what was found."""

    def forward(self, matrix: torch.Tensor, start: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        vector = start / torch.sqrt((start * start).sum())
        rounds = torch.zeros([1], dtype=torch.int32)
        moved = vector[:1] * 0.0 + 1.0
        while bool(moved > 0.01) and bool(rounds < 40):
            after = torch.mv(matrix, vector)
            after = after / torch.sqrt((after * after).sum())
            moved = torch.abs(after - vector).max().reshape([1])
            vector = after
            rounds = rounds + 1
        value = (torch.mv(matrix, vector) * vector).sum()
        result = vector * 2.0 if bool(value > 10.0) else vector - 1.0
        return result, value.reshape([1]), rounds


class Collatz(nn.Module):
    """Steps until 1 is reached: a branch in a loop. Floats, for the converter makes one of a quotient."""

    def forward(self, number: torch.Tensor) -> torch.Tensor:
        steps = torch.zeros([1], dtype=torch.int32)
        while bool(number > 1.0):
            number = number / 2.0 if bool(torch.remainder(number, 2.0) < 0.5) else number * 3.0 + 1.0
            steps = steps + 1
        return steps


def scripted(model: nn.Module, inputs: list[Any], path: Path, half: bool = False) -> Path:
    freeze_imports()
    made = ct.convert(
        torch.jit.script(model.eval()),
        inputs=inputs,
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
        skip_model_load=True,
    )
    made.save(str(path))
    return path


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_a_loop_until_it_converges(tmp_path: Path, half: bool) -> None:
    inputs = [ct.TensorType("matrix", shape=(6, 6)), ct.TensorType("start", shape=(6,))]
    program = load(scripted(Iteration(), inputs, tmp_path / "loop.mlpackage", half))
    assert {"while_loop", "cond"} <= {op.type for op in walk(program.function.block)}
    seen = set()
    for seed, largest, ratio in ((0, 5, 0.3), (1, 20, 0.6), (2, 15, 0.8), (0, 5, 0.3)):
        basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((6, 6)))
        matrix = ((basis * (largest * ratio ** np.arange(6))) @ basis.T).astype(np.float32)
        start = np.ones(6, np.float32)
        args = [torch.from_numpy(matrix), torch.from_numpy(start)]
        vector, value, rounds = program.predict({"matrix": matrix, "start": start}).values()
        exact, plain = (
            outputs(Iteration(), args, torch.float64),
            outputs(Iteration(), args, torch.float16 if half else torch.float32),
        )
        assert rounds == plain[2] == exact[2]
        bound = TIMES_HALF * relative(plain[:2], exact[:2]) if half else max(FP32, 2 * relative(plain[:2], exact[:2]))
        assert relative([vector, value], exact[:2] if half else plain[:2]) <= bound
        seen.add((int(rounds[0]), bool(value > 10)))
    assert len({rounds for rounds, _ in seen}) > 1 and len({large for _, large in seen}) == 2, "both branches, several lengths"


def test_a_branch_in_a_loop(tmp_path: Path) -> None:
    program = load(scripted(Collatz(), [ct.TensorType("number", shape=(1,))], tmp_path / "steps.mlpackage"))
    (loop,) = (op for op in program.function.block.ops if op.type == "while_loop")
    assert "cond" in {op.type for op in walk(loop.blocks[1])}
    for number in (1, 7, 27, 64, 7):
        steps, left = 0, number
        while left != 1:
            left = left // 2 if left % 2 == 0 else 3 * left + 1
            steps += 1
        (found,) = program.predict({"number": np.array([number], np.float32)}).values()
        assert found == steps
