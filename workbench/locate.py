"""Finds suites, cards, samples and demo models: in a checkout and in an installed wheel alike.

Order: an explicit path, each ``--include`` folder, the checkout beside the package, then the wheel's ``workbench/_data``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
INCLUDED: list[Path] = []


def include(folder: str | Path) -> None:
    """Look in ``folder`` before the built-in places (``--include``)."""
    path = Path(folder).expanduser().resolve()
    if path not in INCLUDED:
        INCLUDED.insert(0, path)


def roots() -> list[Path]:
    """The folders that hold ``evals/`` and ``datasets/``, best first."""
    found = list(INCLUDED)
    checkout = PACKAGE.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "evals").is_dir():
        found.append(checkout)
    found.append(PACKAGE / "_data")
    return found


def find(relative: str) -> Path | None:
    """The first existing ``root/relative`` such as ``datasets/cards/mmmu.toml``."""
    return next((root / relative for root in roots() if (root / relative).exists()), None)


def every(pattern: str) -> Iterator[Path]:
    """All files matching a glob such as ``evals/*.toml``; a name found in an earlier root hides later ones."""
    seen: set[str] = set()
    for root in roots():
        for path in sorted(root.glob(pattern)):
            if path.name not in seen:
                seen.add(path.name)
                yield path


def demo_model(name: str) -> Path | None:
    """The bundled model's folder (``vlm``), or None."""
    folder = PACKAGE / "demo" / name
    return folder if name.isidentifier() and (folder / "config.json").is_file() else None
