"""The rules of the house that a machine can check: layers, file sizes, heavy imports, where files may be."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "mlx", "mlx_vlm", "transformers", "datasets", "matplotlib", "coremltools", "pandas", "numpy", "PIL", "rich"}
TRACKED = [path for folder in ("workbench", "tests", "evals") for path in (ROOT / folder).rglob("*.py")]


def test_lower_layers_never_import_higher_ones():
    from importlinter.cli import lint_imports

    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


@pytest.mark.parametrize("path", TRACKED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_holds_one_idea(path):
    assert len(path.read_text().splitlines()) <= 400
    assert path.stem not in {"utils", "helpers", "manager"}


def test_no_python_where_it_would_shadow_a_library():
    assert not list((ROOT / "datasets").rglob("*.py"))
    assert not (ROOT / "evals" / "__init__.py").exists()


@pytest.mark.parametrize(
    "code",
    [
        "import workbench",
        "import workbench.cli.main as main; main.build_parser(None).format_help()",
        "import workbench.tasks.catalogue",
    ],
)
def test_light_commands_load_no_heavy_library(code):
    program = f"import sys; {code}; print(' '.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    assert "workbench" in loaded
    assert not HEAVY & set(loaded)


def test_help_of_every_verb_loads_no_runtime():
    from workbench.cli.main import VERBS

    for verb in VERBS:
        program = (
            "import sys\nfrom workbench.cli.main import main\n"
            f"try: main(['{verb}', '--help'])\nexcept SystemExit as stop: assert stop.code == 0\n"
            "print(' '.join({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
        assert f"workbench {verb}" in done.stdout
        assert not {"torch", "mlx", "transformers", "datasets", "matplotlib"} & set(done.stderr.split())
