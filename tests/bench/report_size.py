"""A report of 100,000 items on two sides: how long to write, how large, and how long until it can be read.

    python -m tests.bench.report_size            # exits 1 when a bound is broken

Bounds: written in 60 s, at most 60 MB, opened in 5 s (from the navigation until the first page of items stands), a full-text search
over everything answered in 15 s. Texts are made of words, about 300 characters of prompt and up to 300 of answer, so that they pack
as prose does; 5 % of the items flip.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.report import browser
from tests.report.bundles import compared, make_line, make_run
from workbench.report import write

WORDS = Path(__file__).read_text().split() + [
    f"{a}{b}" for a in ("pre", "con", "sub", "in", "re", "per") for b in ("tend", "form", "sist", "duce", "ject", "vert")
]
WRITE_SECONDS, PAGE_MEGABYTES, OPEN_SECONDS, SEARCH_SECONDS = 60.0, 60.0, 5.0, 15.0


def text(rng: random.Random, characters: int) -> str:
    return " ".join(rng.choices(WORDS, k=max(1, characters // 6)))


def lines(n: int, candidate: bool):
    shared, own = random.Random(1), random.Random(2)
    made = []
    for number in range(n):
        right, prompt, answer = shared.random() < 0.7, text(shared, 300), text(shared, shared.randrange(10, 300))
        if candidate and own.random() < 0.05:
            right = not right
        if candidate and own.random() < 0.3:
            answer = text(own, own.randrange(10, 300))
        groups = [["subject", f"subject {number % 30}"], ["kind", f"kind {number % 7}"]]
        made.append(
            make_line(
                f"validation_{number:06d}",
                right,
                prompt=prompt,
                rendered=f"<|user|>{prompt}<|assistant|>",
                text=answer,
                groups=groups,
            )
        )
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [make_run(Path(folder), f"demo:{name}", lines(arguments.items, name == "b")) for name in "ab"]
        began = time.perf_counter()
        sides, comparisons = compared(*runs)
        read = time.perf_counter() - began
        began = time.perf_counter()
        page = write(sides, comparisons, Path(folder) / "out")
        written = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform != "darwin" else 1 << 30)
        size = page.stat().st_size / 1e6
        print(
            f"{arguments.items:,} items, two sides: read and compared {read:.1f} s, report written {written:.1f} s, peak memory {peak:.2f} GiB"
        )
        print(
            f"index.html {size:.1f} MB (bound {PAGE_MEGABYTES:.0f}); all files {sum(each.stat().st_size for each in page.parent.iterdir()) / 1e6:.1f} MB"
        )
        good = written <= WRITE_SECONDS and size <= PAGE_MEGABYTES
        if browser.find() is None:
            print("no Chromium on PATH: opening was not measured")
            return 0 if good else 1
        opened, painted, searched = [], [], []
        for _ in range(arguments.repeats):
            with browser.Browser(seconds=120) as chromium:
                tab = chromium.open(page)
                opened.append(tab.wait())
                painted.append(tab.run("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN") / 1000)
                absent = "-".join(("no", "such", "word"))
                tab.run(
                    f"(e => {{ e.value = '{absent}'; e.dispatchEvent(new Event('input')) }})(document.getElementById('search'))"
                )
                start = time.perf_counter()
                tab.wait("document.getElementById('count').textContent.startsWith('No item')", seconds=120)
                searched.append(time.perf_counter() - start)
                assert tab.errors == [], tab.errors
        print(
            f"first paint {median(painted):.2f} s, opened {median(opened):.2f} s (all: {' '.join(f'{each:.2f}' for each in opened)}; bound {OPEN_SECONDS:.0f})"
        )
        print(f"search over all texts {median(searched):.2f} s (bound {SEARCH_SECONDS:.0f})")
        return 0 if good and max(opened) <= OPEN_SECONDS and median(searched) <= SEARCH_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
