"""Weights under new names and in new shapes: every byte, every type, in the file where it was."""

import json

import pytest

from workbench.convert import saved, shards
from workbench.convert.layout import Layout
from workbench.errors import ModelError, RuntimeMissing

torch = pytest.importorskip("torch")


@pytest.fixture
def folder(tmp_path):
    """Three layers of q, k, v in two files, several types."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = tmp_path / "source"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "made-up"}')
    weights = {f"layers.{layer}.{part}.weight": torch.randn(4, 3).bfloat16() for layer in range(3) for part in "qkv"}
    weights |= {f"layers.{layer}.norm": torch.randn(3) for layer in range(3)}
    weights |= {
        "embed": torch.randn(5, 3).to(torch.float8_e4m3fn),
        "steps": torch.arange(7),
        "odd": torch.tensor([True, False, True]),
    }
    weights |= {"scalar": torch.tensor(2.5).half(), "empty": torch.empty(0, 3)}
    first = {name: value for name, value in weights.items() if name.startswith(("layers.0", "layers.1.q", "embed"))}
    parts = {"model-1.safetensors": first, "model-2.safetensors": {n: v for n, v in weights.items() if n not in first}}
    for name, part in parts.items():
        save_file(part, path / name, metadata={"format": "pt", "made": "here"})
    weight_map = {key: name for name, part in parts.items() for key in part}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return path


def stack(given, config):
    """q, k and v of each layer as one matrix, norms doubled in place, the rest as it is."""
    found = {}
    for name in given:
        if name.endswith(".q.weight"):
            parts = [given[name.replace(".q.", f".{part}.")] for part in "qkv"]
            found[name.replace(".q.", ".qkv.")] = torch.cat(parts)
        elif name.endswith(".norm"):
            found[name] = given[name].mul_(2)
        elif not name.endswith((".k.weight", ".v.weight")):
            found[name] = given[name]
    return found


def written(folder, layout, target):
    from safetensors.torch import load_file

    target.mkdir()
    new = shards.plan(saved.read(folder), layout, {"model_type": "made-up"})
    for name in new.files:
        new.write(name, target / name)
    return new, {name: load_file(target / name) for name in new.files}


def originals(folder):
    from safetensors.torch import load_file

    return {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}


def same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def test_renaming_keeps_bytes_types_files_and_metadata(folder, tmp_path):
    from safetensors import safe_open

    new, found = written(folder, Layout((), renames=((r"^layers\.", "model.blocks."), ("norm$", "ln"))), tmp_path / "out")
    for old, value in originals(folder).items():
        name = old.replace("layers.", "model.blocks.").replace("norm", "ln")
        assert same(found[new.weight_map[name]][name].reshape(-1), value.reshape(-1))
        assert new.weight_map[name] == json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][old]
    assert new.renamed == 12 and new.remade == 0
    with safe_open(tmp_path / "out" / "model-1.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "made": "here"}


@pytest.mark.parametrize("together", [None, r"^layers\.\d+\."])
def test_remade_weights_lie_with_their_neighbours(together, folder, tmp_path):
    before = originals(folder)
    new, found = written(folder, Layout((), weights=stack, together=together), tmp_path / "out")
    flat = {name: value for part in found.values() for name, value in part.items()}
    assert flat.keys() == new.weight_map.keys() and len(flat) == 3 + 3 + 5
    for layer in range(3):
        expected = torch.cat([before[f"layers.{layer}.{part}.weight"] for part in "qkv"])
        assert same(flat[f"layers.{layer}.qkv.weight"], expected)
        assert torch.equal(flat[f"layers.{layer}.norm"], before[f"layers.{layer}.norm"] * 2)
    for name in ("embed", "steps", "odd", "scalar", "empty"):
        assert same(flat[name].reshape(-1), before[name].reshape(-1)) and flat[name].shape == before[name].shape
    assert new.remade == 6 and new.weight_map["layers.0.qkv.weight"] == "model-1.safetensors"
    assert new.weight_map["layers.2.qkv.weight"] == "model-2.safetensors"
    assert new.total_bytes == sum(value.numel() * value.element_size() for value in flat.values())
    assert originals(folder).keys() == before.keys()
    assert all(same(value.reshape(-1), before[name].reshape(-1)) for name, value in originals(folder).items())


def test_a_rule_is_given_no_more_than_a_group(folder):
    seen = []

    def watch(given, config):
        seen.append(len(given))
        return dict(given)

    shards.plan(saved.read(folder), Layout((), weights=watch, together=r"^layers\.\d+\."), {})
    assert sorted(seen) == [4, 4, 4, 5]
    seen.clear()
    shards.plan(saved.read(folder), Layout((), weights=watch), {})
    assert seen == [17]


def test_a_file_without_weights_left_is_not_written(folder, tmp_path):
    keep = Layout((), weights=lambda given, config: {"embed": given["embed"]})
    new, found = written(folder, keep, tmp_path / "out")
    assert new.files == ["model-1.safetensors"] and list(found["model-1.safetensors"]) == ["embed"]


@pytest.mark.parametrize(
    ("layout", "match"),
    [
        (Layout((), renames=((r"layers\.\d", "layers"),)), "would both be named"),
        (Layout((), weights=lambda given, config: {"a": given["nowhere"]}), "KeyError"),
        (Layout((), weights=lambda given, config: {"a": given["embed"].double()}), "float64, which no weight had"),
        (Layout((), weights=lambda given, config: {"a": [1, 2]}), "list, which no weight had"),
        (Layout((), weights=lambda given, config: {"a": given[next(iter(given))]}, together="layers"), "twice"),
    ],
)
def test_a_rule_that_cannot_be_right_is_refused(layout, match, folder):
    with pytest.raises(ModelError) as caught:
        shards.plan(saved.read(folder), layout, {"model_type": "made-up"})
    assert match in caught.value.why


def test_a_corrupt_header_is_refused(folder):
    path = folder / "model-1.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"dtype"', b'"dtypf"', 1))
    with pytest.raises(ModelError, match="corrupt header"):
        shards.plan(saved.read(folder), Layout(()), {})


def test_remaking_says_when_torch_is_not_here(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(RuntimeMissing) as caught:
        shards.plan(saved.read(folder), Layout((), weights=stack), {})
    assert "pip install" in caught.value.fix and caught.value.exit_code == 3
