"""The page: verdict first, everything in it, nothing loaded, and foreign text inert."""

import base64
import gzip
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.report.bundles import compared, make_line, make_run, picture
from workbench.metrics.stats import INCOMPARABLE
from workbench.report import page, write
from workbench.run.bundle import Run
from workbench.run.redact import redact

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=hacked=1>\u202e{{7*7}}'\" onclick='x"


class Reader(HTMLParser):
    """Elements with their attributes, ids, and the text of the whole page."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.open, self.blocks, self.words = [], [], {}, []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open.append((tag, dict(attributes).get("id")))

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        tag, name = self.open[-1] if self.open else (None, None)
        if tag == "script":
            self.blocks[name] = self.blocks.get(name, "") + data
        elif tag != "style":
            self.words.append(data)

    @property
    def ids(self):
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words))

    def rows(self, view=0):
        found = []
        while (name := f"rows-{view}-{len(found)}") in self.blocks:
            found.append(unpack(self.blocks[name]))
        return [row for chunk in found for row in chunk]

    def index(self, view=0):
        return unpack(self.blocks[f"index-{view}"])


def unpack(block):
    return json.loads(gzip.decompress(base64.b64decode(block, validate=True)))


def read(sides, comparisons, tmp_path, **more):
    source = write(sides, comparisons, tmp_path / "out", **more).read_text(encoding="utf-8")
    return source, Reader(source)


def lines(wrong=(), n=90, **more):
    return [
        make_line(str(number), number not in wrong and number % 4 > 0, groups=[["kind", f"k{number % 3}"]], **more)
        for number in range(n)
    ]


@pytest.fixture
def two(tmp_path):
    return compared(make_run(tmp_path, "demo:a", lines()), make_run(tmp_path, "demo:b", lines(wrong=(5, 6))))


def test_the_verdict_comes_first_with_n_and_margin(two, tmp_path):
    sides, comparisons = two
    _, found = read(sides, comparisons, tmp_path)
    verdict = comparisons[0].verdict
    assert found.text.index(verdict.name) < found.text.index("The ladder") < found.text.index("Scores As each")
    assert verdict.sentence.removeprefix(f"{verdict.name}: ") in found.text
    assert verdict.margin.text in found.text and f"{verdict.n:,} items" in found.text


def test_every_part_is_there_once_and_ids_are_unique(two, tmp_path):
    _, found = read(*two, tmp_path)
    parts = ["verdict", "ladder", "scores", "groups", "time", "reasons", "environment", "items", "reading"]
    assert [name for name in found.ids if name in parts] == parts and len(found.ids) == len(set(found.ids))
    links = [attributes["href"] for tag, attributes in found.elements if tag == "a"]
    assert {f"#{name}" for name in parts} == set(links)


def test_nothing_is_loaded_from_anywhere(two, tmp_path):
    source, found = read(*two, tmp_path)
    for tag, attributes in found.elements:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            assert attributes.get(name, "#")[:1] == "#" or attributes[name] == "data:,", (tag, attributes)
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    assert not re.search(r"url\(|@import", (page.HERE / "style.css").read_text())
    policies = [
        attributes["content"] for _, attributes in found.elements if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1 and policies[0].startswith("default-src 'none'; img-src data:;") and "unsafe" not in policies[0]
    for tag, kind in (("style", "style-src"), ("script", "script-src")):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", source, re.DOTALL)[1]
        assert f"{kind} 'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'" in policies[0]


def test_the_pictures_need_no_script(two, tmp_path):
    _, found = read(*two, tmp_path)
    drawn = [attributes for tag, attributes in found.elements if tag == "svg" and attributes.get("role") == "img"]
    assert len(drawn) >= len(two[1][0].strata) + 1 and all(attributes["aria-label"] for attributes in drawn)


def test_flips_come_first_with_all_that_belongs_to_them(two, tmp_path):
    _, found = read(*two, tmp_path)
    index, rows = found.index(), found.rows()
    assert len(rows) == len(index["id"]) == 90 and index["id"][:2] == ["5", "6"] and index["change"][:2] == [0, 0]
    prompt, other, gold, media, reference, candidate = rows[0]
    assert prompt.startswith("<|user|>") and other is None and gold == "A" and media == []
    assert reference[:3] == ["The answer is A.", "A", 1.0] and candidate[:3] == ["The answer is B.", "B", 0.0]
    assert rows[-1][5][0] == 1  # the same text is not held twice
    groups = [index["strata_names"][code] for code in index["combination_names"][index["combination"][0]]]
    assert groups == ["kind: k2"]


def test_foreign_text_is_inert_wherever_it_stands(tmp_path):
    bad = [
        make_line(
            HOSTILE,
            number,
            text=HOSTILE,
            answer=HOSTILE,
            prompt=HOSTILE,
            rendered=HOSTILE,
            gold=HOSTILE,
            groups=[[HOSTILE, HOSTILE]],
        )
        for number in (True, False)
    ]
    error = {"reason": HOSTILE, "what": HOSTILE, "why": HOSTILE, "fix": HOSTILE}
    failing = make_line("2", False, error=error)
    sides, comparisons = compared(
        make_run(tmp_path, "demo:a", [bad[0], make_line("2")], task=HOSTILE.replace("/", "")),
        make_run(
            tmp_path,
            f"demo:{HOSTILE}",
            [bad[1], failing],
            task=HOSTILE.replace("/", ""),
            libraries={HOSTILE: HOSTILE},
            options={HOSTILE: HOSTILE},
        ),
    )
    source, found = read(sides, comparisons, tmp_path, title=HOSTILE, command=HOSTILE)
    assert [attributes.get("type") for tag, attributes in found.elements if tag == "script"].count(None) == 1
    assert not [tag for tag, _ in found.elements if tag in ("img", "iframe", "object", "embed", "base")]
    assert "\u202e" not in source and "⟨U+202E⟩" in found.text and "{{7*7}}" in found.text
    assert "<script>window" not in source and "<img" not in source
    assert found.rows()[1][4][0].startswith("</script><script>")  # in the packed rows, shown by textContent
    assert found.rows()[0][5][4][0][1].startswith("</script>")


def test_texts_are_bounded_and_say_how_long_they_are(tmp_path):
    sides, comparisons = compared(
        make_run(tmp_path, "demo:a", [make_line("1", text="x" * 10_485_760), make_line("2", text="y" * 5_000)]),
        make_run(tmp_path, "demo:b", [make_line("1", False), make_line("2", text="y" * 5_000)]),
    )
    source, found = read(sides, comparisons, tmp_path)
    assert len(source) < 300_000
    flipped, same = found.rows()
    assert flipped[4][0].startswith("x" * 4_000) and "10,485,760 characters in all" in flipped[4][0]
    assert same[4][0].startswith("y" * 300 + "…") and len(same[4][0]) < 400
    assert "2 items have texts too long for a page" in found.text


def test_pictures_are_held_once_and_missing_ones_say_why(tmp_path):
    data = picture(1)
    name = hashlib.sha256(data).hexdigest()
    some = [make_line(str(number), media=[name] if number else ["c" * 64]) for number in range(5)]
    sides, comparisons = compared(
        make_run(tmp_path, "demo:a", some, media={f"{name}.png": data}), make_run(tmp_path, "demo:b", some)
    )
    _, found = read(sides, comparisons, tmp_path)
    assert found.blocks["picture-0"].startswith("data:image/png;base64,") and "picture-1" not in found.blocks
    assert [row[3] for row in found.rows()].count([0]) == 4
    assert [row[3] for row in found.rows() if row[3] != [0]][0][0][1] == "c" * 12
    _, without = read(sides, comparisons, tmp_path, media="none")
    assert "picture-0" not in without.blocks


def test_several_candidates_share_one_page(tmp_path):
    runs = [make_run(tmp_path, f"demo:{name}", lines(wrong=range(number * 8))) for number, name in enumerate("abc")]
    sides, comparisons = compared(*runs)
    _, found = read(sides, comparisons, tmp_path)
    assert "2 candidates against demo:a" in found.text and "view" in found.ids
    assert all(each.verdict.name in found.text and each.candidate.label in found.text for each in comparisons)
    assert [found.index(view)["change"].count(0) for view in (0, 1)] == [6, 12]


def test_a_single_run_has_everything_but_a_verdict(tmp_path):
    sides, comparisons = compared(make_run(tmp_path, "demo:a", lines()))
    assert comparisons == []
    _, found = read(sides, comparisons, tmp_path)
    assert "ladder" not in found.ids and "without a reference" in found.text and "by kind" in found.text
    assert set(found.index()["change"]) == {page.CHANGES.index("wrong"), page.CHANGES.index("right")} and len(found.rows()[0]) == 5


def test_runs_that_may_not_be_compared_name_the_field(tmp_path):
    sides, comparisons = compared(
        make_run(tmp_path, "demo:a", lines()), make_run(tmp_path, "demo:b", lines(prompt="Another question?"))
    )
    assert comparisons[0].verdict.name == INCOMPARABLE and not comparisons[0].strata
    _, found = read(sides, comparisons, tmp_path)
    assert "What makes demo:b incomparable" in found.text and "Another question?" in found.text
    assert "no group to show" in found.text and found.index()["id"] == []

    assert "first rung that differsnot judged" in found.text and "broken" not in found.text


def test_a_rung_that_differs_on_purpose_is_not_called_broken(tmp_path):
    weights = {"demo:a": "a" * 64, "demo:b": "b" * 64}
    sides, comparisons = compared(*(make_run(tmp_path, name, lines(), weights=each) for name, each in weights.items()))
    assert comparisons[0].first_broken.number == 1
    source, found = read(sides, comparisons, tmp_path)
    assert "first rung that differs1 artifact" in found.text and "broken" not in source.lower()
    sides, comparisons = compared(make_run(tmp_path, "demo:c", lines()), make_run(tmp_path, "demo:d", lines()))
    assert comparisons[0].rung(4).status == "not run"
    assert "first rung that differsnone of those judged" in read(sides, comparisons, tmp_path)[1].text


@pytest.mark.parametrize("keys", [(b"one", b"one"), (b"one", b"two"), (b"one", None)])
def test_redacted_answers_are_called_other_answers_only_where_that_can_be_told(tmp_path, keys):
    """Under one key markers can be compared. Under two keys, or with a plain side, differing markers say nothing."""
    answers = [["the same", "one answer"], ["the same", "another"]]
    folders = []
    for name, texts, key in zip("ab", answers, keys, strict=True):
        made = make_run(tmp_path, f"demo:{name}", [make_line(text[:3], text=text, answer=text) for text in texts])
        one = [{**json.loads(line), "id": str(place)} for place, line in enumerate((made / "samples.jsonl").open())]
        (made / "samples.jsonl").write_text("".join(json.dumps({**line, "input_hash": line["id"]}) + "\n" for line in one))
        folders.append(redact(Run(made), tmp_path / "hidden" / name, key).folder if key else made)
    _, found = read(*compared(*folders), tmp_path)
    changes = sorted(page.CHANGES[code] for code in found.index()["change"])
    assert changes == (["changed", "same"] if keys[0] == keys[1] else ["redacted", "redacted"])
    assert all(row[1] is None for row in found.rows()), "one question, not two markers of it"


def test_the_page_has_words_for_every_kind_of_change():
    script = (page.HERE / "page.js").read_text(encoding="utf-8")
    words = re.search(r"CHANGE_WORDS = \{(.*?)\};", script, re.DOTALL)[1]
    assert re.findall(r"(\w+): \[", words) == list(page.CHANGES)


def test_what_is_cut_is_counted_once_for_all_candidates(tmp_path):
    long = "y" * 5_000
    sides, comparisons = compared(*(make_run(tmp_path, f"demo:{name}", lines(n=4, text=long)) for name in "abc"))
    _, found = read(sides, comparisons, tmp_path)
    assert "4 items have texts too long" in found.text


def test_groups_that_a_page_cannot_hold_are_counted(tmp_path):
    many = [make_line(str(number), groups=[["kind", f"k{max(0, number - 5)}"]]) for number in range(75)]
    alone, twice = make_run(tmp_path, "demo:a", many), make_run(tmp_path, "demo:b", many)
    _, single = read(*compared(alone), tmp_path)
    assert "10 more groups, none with more items, are in the bundle's results.json" in single.text and "k0" in single.text
    _, pair = read(*compared(alone, twice), tmp_path)
    assert "10 more groups, none with more items, are in strata.csv" in pair.text


def test_items_on_one_side_only_are_listed(tmp_path):
    sides, comparisons = compared(make_run(tmp_path, "demo:a", lines(n=50)), make_run(tmp_path, "demo:b", lines(n=48)))
    _, found = read(sides, comparisons, tmp_path)
    assert "2 items only on the side of demo:a" in found.text and "colours: 49" in found.text


def test_a_bundle_without_inputs_or_groups_still_has_a_report(tmp_path):
    old = [{**line, "input": None, "groups": []} for line in lines(n=20)]
    sides, comparisons = compared(make_run(tmp_path, "demo:a", old), make_run(tmp_path, "demo:b", old))
    _, found = read(sides, comparisons, tmp_path)
    assert found.rows()[0][:4] == [None, None, None, []]


def test_reference_evidence_has_no_timing_and_machines_are_apart(tmp_path):
    runs = [
        make_run(tmp_path, f"demo:{kind}", lines(n=20, untimed=kind == "reference"), evidence=kind)
        for kind in ("device", "host", "reference")
    ]
    _, found = read(*compared(*runs), tmp_path)
    assert "no timing: a reference executor" in found.text and "times of different machines say nothing" in found.text
    assert "Apple M4 Max GPU" in found.text and "AMD EPYC 9654" in found.text


def test_the_environment_marks_what_differs(tmp_path):
    sides, comparisons = compared(
        make_run(tmp_path, "demo:a", lines(n=9), libraries={"torch": "2.13.0"}),
        make_run(tmp_path, "demo:b", lines(n=9), libraries={"torch": "2.12.0"}),
    )
    _, found = read(sides, comparisons, tmp_path)
    assert "differs: torch2.13.02.12.0" in found.text.replace("differs: torch ", "differs: torch").replace(" 2.1", "2.1")


def test_reasons_and_failures_are_counted_and_shown(tmp_path):
    some = [
        make_line("1", False, reason="truncated", finish="length"),
        make_line("2", False, error={"reason": "image", "what": "image cannot be decoded", "why": "cut off", "fix": None}),
    ]
    _, found = read(*compared(make_run(tmp_path, "demo:a", some)), tmp_path)
    assert "1 item errors" in found.text and "image cannot be decoded" in found.text and "why: cut off" in found.text


HEAVY = ("torch", "mlx", "transformers", "matplotlib", "jinja2", "pandas")
RUNTIMES = ("torch", "mlx", "mlx_vlm", "transformers", "coremltools", "tensorrt")


def test_importing_it_is_light():
    code = (
        f"import sys, workbench.report, workbench.cli.report, workbench.cli.view; print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_runs_of_other_machines_meet_where_there_is_no_runtime(tmp_path):
    """Also with pictures from a task's own data: no finder of Python's finds a runtime, as if none were installed."""
    from workbench.tasks.catalogue import load_task

    task = load_task("mmstar-sample")
    sample = task.load(1).samples[0]
    some = [make_line(sample.id, media=[task.ask(sample).inputs["images"][0].sha256])]
    kinds = (("a", "host"), ("b", "device"))
    folders = [str(make_run(tmp_path, f"demo:{name}", some, task="mmstar-sample", evidence=kind)) for name, kind in kinds]
    code = (
        "import sys; from importlib.machinery import PathFinder; find = PathFinder.find_spec; "
        f"PathFinder.find_spec = staticmethod(lambda name, *rest: None if name.partition('.')[0] in {RUNTIMES} else find(name, *rest)); "
        "from workbench.report import write; "
        "from workbench.parity.sides import read_sides; from workbench.parity.ladder import compare_all; "
        "from workbench.metrics.stats import Margin; "
        f"sides = read_sides({folders}); print(write(sides, compare_all(sides, Margin(2.0)), {str(tmp_path / 'out')!r})); "
        f"assert not [name for name in {RUNTIMES} if name in sys.modules]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = Reader(Path(done.stdout.strip()).read_text(encoding="utf-8"))
    assert "demo:b against demo:a" in found.text and "picture-0" in found.blocks
