"""Which runs belong together, and what is said when the arguments make no comparison."""

from __future__ import annotations

import pytest

from tests.parity.bundles import lines_of, make_run
from workbench.cli.main import main
from workbench.errors import UsageError
from workbench.parity.sides import read_sides


def test_runs_of_one_model_on_several_tasks_are_one_side(tmp_path):
    runs = [make_run(tmp_path, model, lines_of(3, 1), task__name=task) for model in ("torch:a", "mlx:a") for task in ("one", "two")]
    sides = read_sides([run.folder for run in runs])
    assert [(side.label, side.tasks) for side in sides] == [("torch:a", ["one", "two"]), ("mlx:a", ["one", "two"])]
    assert [side.label for side in read_sides([tmp_path], reference="mlx:a")] == ["mlx:a", "torch:a"]


def test_the_same_model_under_other_options_is_another_side(tmp_path):
    make_run(tmp_path, "torch:a", lines_of(3, 1))
    make_run(tmp_path, "torch:a", lines_of(3, 1), options={"dtype": "float16"})
    make_run(tmp_path, "torch:a", lines_of(3, 1), hardware="machine-b")
    labels = [side.label for side in read_sides([tmp_path])]
    assert (
        len(set(labels)) == 3
        and any("dtype float16" in label for label in labels)
        and any("machine-b" in label for label in labels)
    )


def test_shards_of_one_run_are_one_side(tmp_path):
    lines = lines_of(6, 2)
    for number, part in ((1, lines[:4]), (2, lines[4:])):
        make_run(tmp_path, "torch:a", part, shard=f"{number}/2", data__items=f"i{number}")
    (side,) = read_sides([tmp_path])
    assert len(side.runs["made"]) == 2 and len(side.lines["made"]) == 8


def test_a_run_given_twice_is_no_second_model(tmp_path):
    run = make_run(tmp_path, "torch:a", lines_of(3, 1))
    labels = [side.label for side in read_sides([run.folder, run.folder])]
    assert labels == [f"torch:a ({run.name})", f"torch:a ({run.name}) #2"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{runs}/nowhere", "{runs}/nowhere"], "there is no run"),
        (["{runs}"], "all runs given are of one model"),
        (["{empty}"], "holds no run"),
        (["{runs}", "--reference", "mlx:b"], "no run is of 'mlx:b'"),
        (["{runs}", "--margin", "0"], "margin"),
    ],
)
def test_bad_arguments_say_what_to_type(tmp_path, capsys, arguments, words):
    (tmp_path / "empty").mkdir()
    make_run(tmp_path / "runs", "torch:a", lines_of(3, 1))
    given = [each.format(runs=tmp_path / "runs", empty=tmp_path / "empty") for each in arguments]
    assert main(["parity", *given]) == 2
    said = capsys.readouterr().err
    assert words in said and "try: " in said


def test_reference_must_be_there():
    with pytest.raises(UsageError, match="there is no run"):
        read_sides(["nowhere"])
