"""Readiness for TensorRT in a report: from the bundle alone, once for the sides that share it, and no foreign text but escaped."""

import json

import pytest

onnx = pytest.importorskip("onnx")
numpy = pytest.importorskip("numpy")
pytest.importorskip("onnxruntime")

from tests.convert.readiness_graphs import graph, node  # noqa: E402
from tests.report.bundles import compared, make_line, make_run  # noqa: E402
from workbench.convert.onnx.readiness import readiness_of  # noqa: E402
from workbench.errors import BundleError  # noqa: E402
from workbench.report import write  # noqa: E402
from workbench.report.readiness import ABOUT, number_text, range_text, readiness_parts, readiness_views, stage_view  # noqa: E402

HOSTILE = "<img src=x onerror=alert(1)>\u202e[a](javascript:b)"


def stages(folder):
    """What a manifest holds of two graphs: one with everything to be told of, one with nothing."""
    nodes = [
        node("Mul", ["x", "x"], ["square"]),
        node("Unique", ["square"], ["u", "", "", ""], name=HOSTILE),
        node("TopK", ["x", "k"], ["v", "i"]),
    ]
    sizes = {"workbench.ranges": '{"T": [1, 2, 8]}'}
    first = graph(folder, nodes, {"x": ("FLOAT16", ["T"]), "k": ("INT64", [1])}, metadata=sizes)
    plain = graph(folder, nodes, {"x": ("FLOAT", ["T"]), "k": ("INT64", [1])}, name="plain.onnx")
    second = graph(folder, [node("Relu", ["x"], ["y"])], {"x": ("FLOAT", [2])}, name="second.onnx")
    calls = [{"x": numpy.array([300, 1e-4], "f4"), "k": numpy.array([1])}]
    return {"vision": readiness_of(first, "11.4", calls, fp32=plain, inputs="a call"), "step": readiness_of(second, "11.4")}


def run_of(where, model, said):
    folder = make_run(where, model, [make_line("1"), make_line("2")])
    (folder / "events.jsonl").write_text(json.dumps({"event": "loaded", "model": {"readiness": said}}) + "\n")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    where = tmp_path_factory.mktemp("readiness")
    said = stages(where)
    others = {name: {**stage, "version": "10.0"} for name, stage in said.items()}
    folders = [make_run(where, "torch:a", [make_line("1"), make_line("2")])]
    folders += [run_of(where, model, each) for model, each in (("onnx:a", said), ("tensorrt:a", said), ("onnx:b", others))]
    sides, comparisons = compared(*folders)
    return said, sides, comparisons, write(sides, comparisons, where / "out").parent


def test_sides_of_the_same_graphs_share_a_table(made):
    said, sides, _, _ = made
    first, second = readiness_views(sides)
    assert first.label.count(",") == 1 and "onnx:a" in first.label and "tensorrt:a" in first.label and "onnx:b" in second.label
    assert first.version == "11.1" and not first.ok and first.source == said["step"]["source"]["words"]
    assert first.notes[0] == "asked for TensorRT 11.4: the newest list that is not newer is that for 11.1"
    vision, step = first.stages
    assert vision.sentence == "2 of 3 nodes are listed for v11.1; opset 20 is in its 9 to 24"
    assert vision.problems == [f"not listed: Unique × 1 ({HOSTILE}): is listed as not supported for v11.1"]
    assert "cannot be told from the graph: TopK × 1: `K` has to be less than 3840" in vision.remarks
    assert (
        "varies: T of x: 1 to 8, mostly 2" in vision.remarks
        and "depends on the data: TopK × 1: its K is computed" in vision.remarks
    )
    assert any(text == "falls to zero in FP16, of what is not 0: square 50 %, u 50 %" for text in vision.remarks)
    assert any(text.startswith("64-bit integers come out of 1 node (TopK × 1)") for text in vision.remarks)
    assert vision.memory.startswith("0 B weights, ") and vision.memory.endswith("(T = 8); 3 values of unknown size")
    assert vision.range == "2 of 3 values over 65,504: square (90,000), u (90,000) (on 1 call of a call)"
    assert step.ok and step.problems == [] and step.range == "not looked at"


def test_page_and_markdown_say_it_and_hold_no_foreign_markup(made):
    _, sides, comparisons, folder = made
    page = (folder / "index.html").read_text()
    section = page[page.index('<section id="readiness">') : page.index('<section id="environment">')]
    assert '<a href="#readiness">Readiness</a>' in page and ABOUT.split("'")[1] in section and "listed for v<bdi" in section
    assert section.count("<table") == 2 and section.count('<tr class="wrong">') == 2 and "will build" not in section
    assert "<img src=x" not in page and "&lt;img src=x onerror=alert(1)&gt;⟨U+202E⟩" in section and "\u202e" not in page
    text = "\n".join(readiness_parts(sides))
    assert "## Readiness for TensorRT" in text and "- vision: 2 of 3 nodes are listed for v11.1" in text.replace("\\", "")
    assert "<img" not in text and "[a](" not in text and text.replace("\\", "").count("memory, estimated: ") == 4
    assert (
        text in (folder / "report.md").read_text().replace("\n\n", "\n")
        or "Readiness for TensorRT" in (folder / "report.md").read_text()
    )


def test_without_it_nothing_is_shown(made, tmp_path):
    sides, comparisons = compared(make_run(tmp_path, "torch:a", [make_line("1")]))
    assert readiness_views(sides) == [] and list(readiness_parts(sides)) == []
    assert "readiness" not in (write(sides, comparisons, tmp_path / "out").parent / "index.html").read_text().lower()


@pytest.mark.parametrize(
    "damage",
    [
        lambda said: [said],
        lambda said: {"vision": "ready"},
        lambda said: {"vision": {**said["vision"], "nodes": "many"}},
        lambda said: {"vision": {**said["vision"], "not_listed": [{"op": 3}]}},
        lambda said: {"vision": {**said["vision"], "memory": {**said["vision"]["memory"], "weight_bytes": 1e300}}},
        lambda said: {"vision": {**said["vision"], "overflow": {"type": "FP16"}}},
        lambda said: {"vision": {**said["vision"], "dynamic": [{"input": "x", "size": "T", "range": ["a"]}]}},
    ],
)
def test_a_damaged_one_is_told_by_name(made, tmp_path, damage):
    sides, _ = compared(run_of(tmp_path, "onnx:a", damage(made[0])))
    with pytest.raises(BundleError, match="onnx:a.* is damaged"):
        readiness_views(sides)


def test_ranges_in_words(made):
    seen = made[0]["vision"]["overflow"]
    rows = [{"value": f"v{number}", "largest": 7e4, "nonfinite": 0} for number in range(5)]
    told = range_text({**seen, "over": rows, "over_count": 9, "near": rows[:1], "near_count": 1, "kept": 2, "applies": False})
    assert told == (
        "9 of 3 values over 65,504: v0 (70,000), v1 (70,000), v2 (70,000), ...; 1 within a tenth of it: v0 (70,000); "
        "2 more stay fp32; in FP16, which this graph is not (on 1 call of a call)"
    )
    assert number_text(3.39e38) == "3.39e+38" and number_text(10**400) == "beyond any float" and number_text(0.5) == "0.5"
    many = {**made[0]["vision"], "not_listed_rows": 40, "capability": {"tensorrt": "11.4", "ok": False, "error_count": 2}}
    view = stage_view("x", many)
    assert view.problems[-1] == "and 39 more reasons, in the bundle"
    assert view.remarks[-1] == "the parser of the TensorRT 11.4 that is installed names 2 errors"
