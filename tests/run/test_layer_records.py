"""Layer records: written, read back, sampled evenly, and refused where damaged."""

from __future__ import annotations

import json

import numpy
import pytest

from workbench.errors import BundleError
from workbench.metrics.sketch import Moments, estimated_error
from workbench.metrics.tensors import tensor_error
from workbench.run import journal
from workbench.run.bundle import LAYERS_FILE, Run
from workbench.run.layer_records import ItemRecords, LayerRecords, Record, lines_of, problem, sampled, write_layers


def record(name, layer, values, order=0, keep=True, one_in=1):
    moments = Moments()
    moments.add(values)
    found = moments.record()
    sketch = found.pop("sketch")
    kept = values.reshape(-1)[sampled(values.size, one_in)] if keep else None
    line = {
        **{
            "id": "item",
            "pass": name,
            "order": order,
            "layer": layer,
            "path": f"model.{layer}",
            "shape": list(values.shape),
            "calls": 1,
        },
        **{**found, "values": 0 if kept is None else kept.size, "one_in": one_in if keep else None},
    }
    return Record(line, sketch, kept)


def item(name, random, scale=1.0):
    made = ItemRecords(name)
    for kind in ("float32", "float64"):
        made.passes[kind] = {}
        for order, (layer, n) in enumerate((("vision.input", 40), ("vision.block.0", 40), ("logits", 5000))):
            each = record(kind, layer, scale * random.standard_normal((n, 8)).astype(kind), order, layer != "logits")
            each.line["id"] = name
            made.passes[kind][layer] = each
    return made


@pytest.fixture
def bundle(tmp_path):
    """A folder with the records of two items, and what was written."""
    random = numpy.random.default_rng(0)
    items = {name: item(name, random) for name in ("a", "b/2")}
    folder = tmp_path / "capture"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"schema": 2, "kind": "capture", "status": "complete", "run_key": "0" * 64}))
    for each in items.values():
        write_layers(folder, each)
        with journal.Journal(folder / LAYERS_FILE) as file:
            file.append(*lines_of(each))
    return folder, items


def test_what_is_written_is_read_back_bit_by_bit(bundle):
    folder, items = bundle
    records = LayerRecords(Run(folder))
    assert list(records.lines) == list(items) and "a" in records and "c" not in records
    for name, written in items.items():
        found = records.read(name)
        assert found.id == name and list(found.passes) == ["float32", "float64"]
        for kind, layers in written.passes.items():
            assert list(found.passes[kind]) == list(layers), "in order of execution"
            for layer, each in layers.items():
                again = found.passes[kind][layer]
                assert again.line == each.line and again.layer == layer
                assert again.sketch.tobytes() == each.sketch.tobytes()
                assert (again.values is None) == (each.values is None)
                assert again.values is None or (again.values.dtype, again.values.tobytes()) == (
                    each.values.dtype,
                    each.values.tobytes(),
                )


def test_records_of_two_captures_are_compared_without_values(bundle):
    folder, items = bundle
    one = LayerRecords(Run(folder)).read("a").passes["float32"]["logits"]
    random = numpy.random.default_rng(5)
    values, noise = random.standard_normal((5000, 8)), 1e-3 * random.standard_normal((5000, 8))
    before, after = record("float32", "x", values, keep=False), record("float32", "x", values + noise, keep=False)
    exact = tensor_error(values, values + noise)
    assert estimated_error(before.moments(), after.moments()).relative_rms == pytest.approx(exact.relative_rms, rel=0.15)
    assert estimated_error(one.moments(), one.moments()).relative_rms == 0


def test_an_item_that_was_written_twice_counts_as_it_was_last(bundle):
    folder, _ = bundle
    again = item("a", numpy.random.default_rng(9), scale=3.0)
    again.passes = {kind: dict(reversed(layers.items())) for kind, layers in again.passes.items()}
    write_layers(folder, again)
    with journal.Journal(folder / LAYERS_FILE) as file:
        file.append(*lines_of(again))
    layers = LayerRecords(Run(folder)).read("a").passes["float32"]
    assert list(layers) == ["logits", "vision.block.0", "vision.input"], "in the later order"
    found = layers["vision.block.0"]
    assert found.line == again.passes["float32"]["vision.block.0"].line
    assert found.values.tobytes() == again.passes["float32"]["vision.block.0"].values.tobytes()


def test_samples_are_nested_spread_and_the_same_everywhere():
    n = 100_000
    finer = set(sampled(n, 1).tolist())
    assert len(finer) == n
    for power in range(1, 11):
        places = sampled(n, 2**power)
        assert set(places.tolist()) <= finer, "a coarser sample's places are among a finer one's"
        assert places.size == pytest.approx(n / 2**power, abs=2)
        gaps = numpy.diff(places)
        assert gaps.max() <= 4 * 2**power and gaps.min() >= 2**power / 4, "evenly, with no long gap"
        finer = set(places.tolist())
    assert sampled(1000, 256).tolist() == [place for place in range(1000) if place * 0x9E3779B97F4A7C15 % 2**64 < 2**56]
    begin = 10**12
    expected = [place for place in range(begin, begin + 5000) if place * 0x9E3779B97F4A7C15 % 2**64 < 2**60]
    assert sampled(begin + 5000, 16, begin).tolist() == expected and len(expected) > 300
    assert sampled(0, 4).size == 0


@pytest.mark.parametrize("channels", [64, 96, 128, 1024, 4096])
@pytest.mark.parametrize("one_in", [2, 8, 32])
def test_a_sample_takes_all_channels_alike(channels, one_in):
    rows = 512
    counts = numpy.bincount(sampled(rows * channels, one_in) % channels, minlength=channels)
    assert counts.min() >= 0.5 * rows / one_in and counts.max() <= 1.5 * rows / one_in


def test_a_shorter_tensor_has_the_beginning_of_a_longer_ones_sample():
    assert sampled(5000, 16).tolist() == [place for place in sampled(9000, 16).tolist() if place < 5000]


@pytest.mark.parametrize(
    "change",
    [
        {"id": None},
        {"pass": 3},
        {"layer": ["x"]},
        {"order": -1},
        {"order": True},
        {"n": 1.5},
        {"non_finite": None},
        {"square": None},
        {"square": float("nan")},
        {"min": float("inf")},
        {"rms": "0.1"},
        {"shape": "40x8"},
        {"shape": [40, -8]},
        {"one_in": 3},
        {"one_in": 0},
    ],
    ids=str,
)
def test_a_damaged_line_is_named(bundle, change):
    folder, items = bundle
    lines = [json.loads(line) for line in (folder / LAYERS_FILE).read_text().splitlines()]
    assert all(problem(line) is None for line in lines) and problem(lines[2] | change)
    lines[2] |= change
    (folder / LAYERS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(BundleError, match="damaged at line 3"):
        LayerRecords(Run(folder))


def test_what_is_no_mapping_is_no_layer():
    assert [problem(each) for each in (None, 3, "text", [])] == ["it is no mapping"] * 4


def parts(folder):
    return sorted((folder / "tensors").glob("layers-*.safetensors"))


def test_missing_truncated_and_foreign_tensors_are_refused(bundle):
    folder, items = bundle
    first, second = parts(folder)
    whole = first.read_bytes()
    first.unlink()
    records = LayerRecords(Run(folder))
    with pytest.raises(BundleError, match="lacks the tensors of 'a'"):
        records.read("a")
    assert records.read("b/2").id == "b/2"
    for damaged in (whole[:-8], whole[: len(whole) // 2], b"", b"\xff" * 64):
        first.write_bytes(damaged)
        with pytest.raises(BundleError):
            LayerRecords(Run(folder)).read("a")
    first.write_bytes(whole)
    assert LayerRecords(Run(folder)).read("a").id == "a"


def test_values_that_are_not_as_many_as_the_line_says_are_refused(bundle):
    folder, items = bundle
    lines = [json.loads(line) for line in (folder / LAYERS_FILE).read_text().splitlines()]
    lines[0]["values"] += 1
    (folder / LAYERS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(BundleError, match="values") as caught:
        LayerRecords(Run(folder)).read("a")
    assert "321" in caught.value.why


def test_a_line_without_its_tensor_is_refused(bundle):
    folder, items = bundle
    line = {**items["a"].passes["float32"]["logits"].line, "layer": "text.block.7"}
    with journal.Journal(folder / LAYERS_FILE) as file:
        file.append(line)
    with pytest.raises(BundleError, match="damaged"):
        LayerRecords(Run(folder)).read("a")


def test_names_with_slashes_do_not_meet(bundle):
    """``<pass>/<layer>``: an item, pass or layer may hold a slash or a dot."""
    folder, _ = bundle
    odd = ItemRecords("odd/../item")
    values = numpy.arange(6, dtype=numpy.float32).reshape(2, 3)
    odd.passes = {
        "localised-0123456789ab": {
            "a/b": record("localised-0123456789ab", "a/b", values),
            "a": record("localised-0123456789ab", "a", -values),
        }
    }
    for each in lines_of(odd):
        each["id"] = odd.id
    write_layers(folder, odd)
    with journal.Journal(folder / LAYERS_FILE) as file:
        file.append(*lines_of(odd))
    found = LayerRecords(Run(folder)).read(odd.id).passes["localised-0123456789ab"]
    assert found["a/b"].values.tolist() == values.ravel().tolist() and found["a"].values.tolist() == (-values).ravel().tolist()
    assert not [path for path in folder.parent.rglob("*") if path.is_file() and folder not in path.parents]
