"""Which runs belong together, and what is said when the arguments make no comparison."""

from __future__ import annotations

import json

import pytest

from tests.parity.bundles import lines_of, make_run, rewrite
from workbench.cli.main import main
from workbench.errors import BundleError, UsageError
from workbench.parity.ladder import compare_all, make_margin
from workbench.parity.sides import read_sides
from workbench.run.archive import pack


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


def test_of_a_folders_runs_of_one_command_the_newest_counts(tmp_path):
    """Typing `make demo` again after an upgrade must not make two references of one model."""
    old = make_run(tmp_path, "torch:a", lines_of(3, 1), libraries={"torch": "2.12.0"})
    new = make_run(tmp_path, "torch:a", lines_of(3, 1))
    make_run(tmp_path, "mlx:a", lines_of(3, 1))
    edit_manifest(new, finished="2026-02-01T00:00:00Z")
    sides = read_sides([tmp_path], reference="torch:a")
    assert [[run.name for run in side.all_runs] for side in sides if side.text == "torch:a"] == [[new.name]]
    comparison = compare_all(sides, make_margin(2.0, False))[0]
    assert any(old.name in note and "newer run of the same command" in note for note in comparison.notes)
    assert len(read_sides([old.folder, new.folder])) == 2, "named, both count"


def edit_manifest(run, **changes):
    (run.folder / "manifest.json").write_text(json.dumps(run.manifest | changes))


def test_shards_of_one_run_are_one_side(tmp_path):
    lines = lines_of(6, 2)
    for number, part in ((1, lines[:4]), (2, lines[4:])):
        make_run(tmp_path, "torch:a", part, shard=f"{number}/2", data__items=f"i{number}")
    (side,) = read_sides([tmp_path])
    assert len(side.runs["made"]) == 2 and len(side.lines["made"]) == 8


def test_a_run_given_twice_is_no_second_model(tmp_path):
    run = make_run(tmp_path, "torch:a", lines_of(3, 1))
    (tmp_path / "zips").mkdir()
    pack([run], tmp_path / "zips" / "a.zip")
    (side,) = read_sides([run.folder, tmp_path, tmp_path / "zips" / "a.zip"])
    assert side.label == "torch:a" and [each.name for each in side.all_runs] == [run.name]


def test_shards_are_left_out_beside_the_run_they_were_merged_to(tmp_path):
    lines = lines_of(6, 2)
    shards = [
        make_run(tmp_path, "torch:a", part, shard=f"{number}/2", data__items=f"i{number}")
        for number, part in ((1, lines[:4]), (2, lines[4:]))
    ]
    whole = make_run(tmp_path, "torch:a", lines, data__items="i3")
    merged = [{"name": run.name, "run_key": run.manifest["run_key"]} for run in shards]
    rewrite(whole, "manifest.json", lambda manifest: manifest | {"merged": merged})
    (side,) = read_sides([tmp_path])
    assert [run.name for run in side.all_runs] == [whole.name]


def test_shards_of_another_division_are_another_side(tmp_path):
    for shard in ("1/2", "2/2", "1/3"):
        make_run(tmp_path, "torch:a", lines_of(3, 1), shard=shard, data__items=shard)
    assert sorted(len(side.all_runs) for side in read_sides([tmp_path])) == [1, 2]


def test_a_reference_that_is_several_is_refused_and_a_run_or_a_label_names_it(tmp_path):
    runs = [make_run(tmp_path, "torch:a", lines_of(3, 1), options={"dtype": dtype}) for dtype in ("float16", "float32")]
    with pytest.raises(UsageError, match="no single reference") as error:
        read_sides([tmp_path], reference="torch:a")
    assert "dtype float16" in error.value.why
    for run in runs:
        assert read_sides([tmp_path], reference=run.name)[0].all_runs[0].name == run.name
    assert read_sides([tmp_path], reference="torch:a (dtype float32)")[0].all_runs[0].name == runs[1].name


def test_a_damaged_run_in_a_folder_is_not_passed_over(tmp_path):
    make_run(tmp_path, "torch:a", lines_of(3, 1))
    damaged = make_run(tmp_path, "mlx:a", lines_of(3, 1))
    (damaged.folder / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match=damaged.name):
        read_sides([tmp_path])


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
