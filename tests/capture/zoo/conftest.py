"""Files of families for the tests of the zoo's runner."""

from pathlib import Path

import pytest

STUB = Path(__file__).with_name("stub_families.py").read_text()


@pytest.fixture
def family_file(tmp_path):
    """``family_file("family('good')", ...)``: the path of a file with these families."""

    def write(*families: str, name: str = "mine.py", tail: str = "") -> Path:
        path = tmp_path / name
        path.write_text(f"{STUB}\n\n{tail}\nFAMILIES = ({', '.join(families)},)\n")
        return path

    return write
