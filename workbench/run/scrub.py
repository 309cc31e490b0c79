"""Takes what names a person or a machine out of a program's messages: paths, the user's name, the host's name.

    Private.here().scrubbed("/Users/ada/models/m.py: No such file")     # '…/m.py: No such file'

Bundles hold no such thing by design; a foreign library's error message may.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SHORTEST_NAME = 3
GENERAL = frozenset({"root", "user", "admin", "runner", "ubuntu", "localhost", "local", "mac", "linux", "none", "host"})
"""Names that say nothing of anybody; as words of a message they would be missed."""
ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)")
PATH = re.compile(
    r"(?:(?<=\s-[DFIL])|(?<![\w.…~/\\]))(?!(?<=:)//)(?:file://)?(?:~|[A-Za-z]:)?[/\\](?:[^\s\"'`<>|:;,()\[\]{}]+[/\\])*([^\s\"'`<>|:;,()\[\]{}/\\]*)"
)
"""An absolute path, or one from a home folder; what follows its last separator is kept. Not the ``//`` of an address."""


@dataclass(frozen=True)
class Private:
    """What must not leave a machine: ``folders`` (longest first) and ``names``. ``own``: those folders that a person chose."""

    folders: tuple[str, ...]
    names: tuple[str, ...]
    own: tuple[str, ...] = ()

    @classmethod
    def here(cls, *more: Path) -> Private:
        """Of this machine and user; ``more``: further folders, such as the one where runs go."""
        own = forms([Path.home(), Path.cwd(), *more])
        host = platform.node()
        names = (user_name(), Path.home().name, host, host.partition(".")[0])
        return cls.of(own | forms([Path(sys.prefix), Path(tempfile.gettempdir())]), names, own)

    @classmethod
    def of(cls, folders: Iterable[str], names: Iterable[str], own: Iterable[str] = ()) -> Private:
        whole = sorted({each for each in folders if len(Path(each).parts) > 1}, key=lambda each: (-len(each), each))
        kept = {each for each in names if len(each) >= SHORTEST_NAME and each.casefold() not in GENERAL}
        mine = tuple(sorted(each for each in own if len(Path(each).parts) > 2))
        return cls(tuple(whole), tuple(sorted(kept, key=lambda each: (-len(each), each))), mine)

    def scrubbed(self, text: str) -> str:
        """``text`` without a terminal's commands, its paths cut to their last part, its names replaced by ``…``."""
        text = ESCAPES.sub("", text)
        for folder in self.folders:  # before the pattern: their names may hold spaces
            text = re.sub(rf"{re.escape(folder)}(?=[/\\]|\b|$)", "/…", text)
        text = PATH.sub(lambda found: f"…/{found[1]}", text)
        for name in self.names:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "…", text, flags=re.IGNORECASE)
        return "".join(each if each.isprintable() else " " for each in text).rstrip()

    def found_in(self, content: str) -> str | None:
        """The first of a person's own folders that stands in a text, as it is or as JSON writes it; None where none does.

        Names are not looked for, since they may be words, nor folders such as ``/root`` that say nothing of anybody.
        """
        return next((folder for folder in self.own if folder in content or json.dumps(folder)[1:-1] in content), None)


def forms(places: Iterable[Path]) -> set[str]:
    """Each place as it is called, and as the system resolves it (``/tmp`` is ``/private/tmp`` on a Mac)."""
    return {form for place in places for form in (os.path.abspath(place), os.path.realpath(place))}


def user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        return ""
