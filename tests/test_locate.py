"""Where suites, cards and samples are found: an explicit path, --include, the checkout, the wheel's own copy; in that order."""

from workbench import locate
from workbench.suites import load_suite


def write(path, name):
    path.parent.mkdir(parents=True)
    path.write_text(f'name = "demo"\ndescription = "{name}"\ntasks = ["mmmu-sample"]\n')


def test_an_explicit_path_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine" / "demo.toml", "by-path")
    assert load_suite("mine/demo.toml").description == "by-path"


def test_an_included_folder_comes_before_the_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(locate, "INCLUDED", [])
    before = locate.find("evals/demo.toml")
    write(tmp_path / "evals" / "demo.toml", "included")
    locate.include(tmp_path)
    assert locate.find("evals/demo.toml") == tmp_path / "evals" / "demo.toml" != before
    assert [path for path in locate.every("evals/*.toml") if path.name == "demo.toml"] == [tmp_path / "evals" / "demo.toml"]


def test_the_checkout_comes_before_the_wheels_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(locate, "INCLUDED", [])
    monkeypatch.setattr(locate, "PACKAGE", tmp_path / "workbench")
    write(tmp_path / "evals" / "demo.toml", "checkout")
    write(tmp_path / "workbench" / "_data" / "evals" / "demo.toml", "stale copy")
    assert locate.find("evals/demo.toml") == tmp_path / "workbench/_data/evals/demo.toml", "a folder without pyproject is no checkout"
    (tmp_path / "pyproject.toml").write_text("")
    assert locate.find("evals/demo.toml") == tmp_path / "evals" / "demo.toml"


def test_the_wheels_copy_is_used_where_there_is_no_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(locate, "INCLUDED", [])
    monkeypatch.setattr(locate, "PACKAGE", tmp_path / "site" / "workbench")
    write(tmp_path / "site" / "workbench" / "_data" / "evals" / "demo.toml", "wheel")
    assert load_suite("demo").description == "wheel"


def test_demo_models_are_named_not_addressed():
    assert locate.demo_model("vlm") is not None
    assert locate.demo_model("../demo/vlm") is None and locate.demo_model("nope") is None
