"""One name for one layer: on the module paths that transformers 5.23 and mlx-vlm 0.7.10 really have."""

from __future__ import annotations

import pytest

from workbench.capture.names import COARSE, FINE, chosen, first_blocks, layer_name, matches, names_of

# transformers, mlx-vlm, the name of both
PAIRS = [
    # LLaVA
    (
        "model.vision_tower.encoder.layers.3.self_attn",
        "vision_tower.vision_model.encoder.layers.3.self_attn",
        "vision.block.3.attention",
    ),
    ("model.vision_tower.embeddings", "vision_tower.vision_model.embeddings", "vision.embeddings"),
    ("model.vision_tower.post_layernorm", "vision_tower.vision_model.post_layernorm", "vision.norm"),
    ("model.multi_modal_projector", "multi_modal_projector", "projector"),
    ("model.multi_modal_projector.linear_1", "multi_modal_projector.linear_1", "projector.linear_1"),
    ("model.language_model.layers.1.mlp", "language_model.model.layers.1.mlp", "text.block.1.mlp"),
    ("model.language_model.embed_tokens", "language_model.model.embed_tokens", "text.embeddings"),
    ("model.language_model.norm", "language_model.model.norm", "text.norm"),
    # Idefics 3
    ("model.vision_model.encoder.layers.0.mlp.fc1", "vision_model.encoder.layers.0.mlp.fc1", "vision.block.0.mlp.fc1"),
    ("model.connector", "connector", "projector"),
    ("model.text_model.layers.0.self_attn.q_proj", "language_model.layers.0.self_attn.q_proj", "text.block.0.attention.q_proj"),
    # Qwen 2.5-VL
    ("model.visual.blocks.2.attn", "vision_tower.blocks.2.attn", "vision.block.2.attention"),
    ("model.visual.patch_embed", "vision_tower.patch_embed", "vision.embeddings"),
    ("model.visual.merger", "vision_tower.merger", "projector"),
    # Llama and Qwen, text alone
    ("model.layers.0.self_attn", "model.layers.0.self_attn", "text.block.0.attention"),
    ("model.layers.0.post_attention_layernorm", "model.layers.0.post_attention_layernorm", "text.block.0.post_attention_layernorm"),
]


@pytest.mark.parametrize(("reference", "port", "name"), PAIRS, ids=[reference for reference, _, _ in PAIRS])
def test_both_libraries_paths_have_one_name(reference, port, name):
    assert layer_name(reference) == layer_name(port) == name


@pytest.mark.parametrize(
    "path", ["", "model", "language_model", "language_model.model", "model.vision_tower", "model.vision_tower.encoder"]
)
def test_containers_have_no_name(path):
    assert layer_name(path) is None


@pytest.mark.parametrize("path", ["lm_head", "language_model.lm_head", "model.lm_head", "head", "output"])
def test_the_head_has_none_either_since_logits_are_recorded_as_output(path):
    assert layer_name(path) is None


def test_a_head_inside_a_tower_or_block_keeps_its_name():
    assert layer_name("vision_tower.head") == "vision.head"
    assert layer_name("model.layers.0.attention.output") == "text.block.0.attention.output"


def test_names_are_apart_where_layers_are():
    """Encoder and decoder of a text model, two towers, audio."""
    apart = [
        "model.language_model.encoder.layers.0",
        "model.language_model.decoder.layers.0",
        "model.vision_tower.layers.0",
        "model.audio_tower.layers.0",
    ]
    assert [layer_name(path) for path in apart] == ["text.block.0", "text.decoder.block.0", "vision.block.0", "audio.block.0"]


def test_a_familys_own_renames_come_first():
    renames = ((r"^trunk\.", "vision_tower."), (r"\.stage(\d)\.", r".layers.\1."))
    assert layer_name("trunk.stage3.attn", renames) == "vision.block.3.attention"
    assert layer_name("trunk.stage3.attn") == "text.stage3.attention"


def test_of_several_paths_with_one_name_the_outermost_has_it():
    found = names_of(["model.visual.patch_embed", "model.visual.embeddings", "model.visual.patch_embed.proj", "lm_head"])
    assert found == {"model.visual.patch_embed": "vision.embeddings", "model.visual.patch_embed.proj": "vision.embeddings.proj"}


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.block.#", ["text.block.0", "text.decoder.block.12"], ["text.block.0.mlp", "text.block.x", "text.block."]),
        ("*.block.#.~", ["text.block.0.mlp"], ["text.block.0", "text.block.0.mlp.fc1", "text.block.a.mlp"]),
        ("projector.~", ["projector.linear_1"], ["projector", "projector.a.b"]),
        ("*.norm", ["vision.norm"], ["vision.block.0.layer_norm1", "vision_norm"]),
        ("vision.*", ["vision.block.0.mlp"], ["text.block.0"]),
        ("text.block.[01]", ["text.block.0", "text.block.1"], ["text.block.2"]),
        ("a.b", ["a.b"], ["a-b", "a.bc", "xa.b"]),
        ("a.#", ["a.1"], ["ab1", "a.1\n"]),
    ],
)
def test_patterns(pattern, yes, no):
    assert all(matches(name, [pattern]) for name in yes)
    assert not any(matches(name, [pattern]) for name in no)


def test_a_pattern_may_also_be_a_modules_own_path():
    names = {"model.visual.blocks.0.attn": "vision.block.0.attention", "model.visual.blocks.1.attn": "vision.block.1.attention"}
    assert list(chosen(names, ["*.blocks.0.*"])) == ["model.visual.blocks.0.attn"]
    assert chosen(names, ["vision.block.#.attention"]) == names
    assert chosen(names, []) == {}


def test_what_is_recorded_by_default():
    names = ["text.embeddings", "text.norm", "text.block.3", "projector", "logits", "text.input"]
    parts = ["text.block.3.mlp", "projector.linear_1"]
    deeper = ["text.block.3.mlp.up_proj", "vision.embeddings.proj"]
    assert all(matches(name, COARSE) for name in names) and not any(matches(name, COARSE) for name in (*parts, *deeper))
    assert all(matches(name, FINE) for name in (*names, *parts)) and not any(matches(name, FINE) for name in deeper)


def test_the_input_of_each_tower_is_that_of_its_first_block():
    known = names_of(
        ["model.visual.blocks.0", "model.visual.blocks.1", "model.language_model.layers.0", "model.language_model.layers.10"]
    )
    assert first_blocks(known) == {"model.visual.blocks.0": "vision.input", "model.language_model.layers.0": "text.input"}


@pytest.mark.parametrize("name", ["llava", "idefics3", "qwen2_5_vl", "llama"])
def test_every_block_of_a_family_is_aligned(name, tmp_path):
    """Real models of both libraries: all that ``FINE`` records of the reference's blocks has a counterpart, and the other way round."""
    pytest.importorskip("torch", reason="needs torch (pip install 'parity-workbench[torch]')")
    pytest.importorskip("mlx_vlm", reason="needs mlx-vlm (pip install 'parity-workbench[mlx]')")
    from workbench.capture.hooks import module_paths
    from workbench.capture.zoo.catalogue import load
    from workbench.capture.zoo.measure import folders

    family = load(f"workbench.capture.zoo.families.{name}")[0]
    model, folder = folders(family, "hub", tmp_path, 0)
    mine, theirs = (
        set(chosen(names_of(module_paths(each), renames), FINE).values())
        for each, renames in ((model, family.reference_names), (family.open_port(folder), family.port_names))
    )
    blocks = {each for each in mine | theirs if ".block." in each and each.endswith((".attention", ".mlp"))}
    assert blocks and blocks <= mine & theirs
    assert {each for each in mine if matches(each, COARSE)} <= theirs


def test_a_second_vision_tower_keeps_its_layers():
    from workbench.capture.names import COARSE, chosen, names_of

    paths = ["model.sam_model.blocks.0", "model.vision_model.transformer.layers.0", "model.layers.0"]
    found = names_of(paths)
    assert list(found) == paths and len(set(found.values())) == 3
    assert found["model.sam_model.blocks.0"] == "vision.block.0" and found["model.layers.0"] == "text.block.0"
    assert chosen(found, COARSE) == found, "recorded by default, not only known"
