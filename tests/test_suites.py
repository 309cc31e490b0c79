import pytest

from workbench import locate, suites
from workbench.errors import DataError, UsageError
from workbench.tasks.catalogue import load_task


def test_the_demo_suite_names_tasks_that_exist():
    suite = suites.load_suite("demo")
    assert suite.tasks == ("mmmu-sample", "mmstar-sample", "ocrbench-sample", "mathvista-sample")
    assert [load_task(name).name for name in suite.tasks] == list(suite.tasks)
    assert suite.description
    assert "demo" in suites.suite_names()


def test_own_suites_are_found_by_path_and_in_included_folders(tmp_path, monkeypatch):
    folder = tmp_path / "evals"
    folder.mkdir()
    (folder / "mine.toml").write_text('tasks = ["mmmu", "my.py"]')
    (folder / "other.toml").write_text("limit = 3")
    assert suites.load_suite(str(folder / "mine.toml")).tasks == ("mmmu", "my.py")
    monkeypatch.setattr(locate, "INCLUDED", [tmp_path])
    assert suites.load_suite("mine").name == "mine"
    assert {"mine", "demo"} <= set(suites.suite_names())
    assert "other" not in suites.suite_names()


@pytest.mark.parametrize("text", ["", "tasks = []", "tasks = 'mmmu'", "tasks = [1]", "tasks = ["])
def test_broken_suites_are_named(tmp_path, text):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(DataError, match="bad.toml"):
        suites.load_suite(str(path))


def test_an_unknown_suite_lists_those_there_are():
    with pytest.raises(UsageError, match="unknown suite 'nothing'") as caught:
        suites.load_suite("nothing")
    assert "demo" in caught.value.why
