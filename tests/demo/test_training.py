"""Packing equals single prompts, and a resumed run equals an uninterrupted one."""

import random

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from workbench.demo import architecture, attention, packing, pretrain, train  # noqa: E402


@pytest.mark.parametrize("kind", ["eager", "packed"])
@pytest.mark.parametrize("images", [1, 2])
def test_packed_blocks_equal_single_prompts(images, kind):
    """Every block of a pack has the logits of its own prompt given to transformers' forward."""
    attention.register()
    model = architecture.create_model(0, kind).eval()
    reference = model if kind == "eager" else architecture.create_model(0, "eager").eval()
    generator = random.Random(3)
    packs = [packing.sample_pack(generator, packing.Curriculum(), False, images) for _ in range(2)]
    batch = packing.collate(packs)
    with torch.no_grad():
        packed, _ = train.forward(model, batch)
    start = 0
    for pack in packs:
        for block in pack.blocks:
            ids = torch.tensor([pack.prefix + block.prompt + block.answer])
            with torch.no_grad():
                pixels = pretrain.pixels_of(pack.images)
                output = reference(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids))
            single = output.logits[0, -len(block.answer) - 1 : -1]
            worst = (single - packed[start : start + len(single)]).abs().max() / single.abs().max()
            assert worst < 2e-5
            start += len(single)
    assert start == len(packed)


def settings(steps: int) -> train.Settings:
    return train.Settings("joint", minutes=1, steps=steps, batch=2, pair_share=0.3)


def run(folder, stop_after: int | None = None) -> dict:
    """Four steps, or the first ``stop_after`` of four; returns the weights."""
    model = architecture.create_model(0, attention.register())
    trainer = train.Trainer(model, settings(4), folder)
    model.train()
    while trainer.progress < 1 and trainer.step != stop_after:
        trainer.train_step()
    trainer.save()
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", stop_after=2)
    resumed = run(tmp_path / "parts")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_export_is_read_back_unchanged_by_transformers(tmp_path):
    from transformers import AutoModelForImageTextToText

    model = architecture.create_model(5)
    architecture.export(model, tmp_path)
    again, report = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith("option_head")}
    assert all(torch.equal(kept[name], value) for name, value in again.state_dict().items())


def test_the_vision_stage_runs(tmp_path):
    pretrain.run(tmp_path, minutes=1, seed=0, steps=1, batch=4)
    assert (tmp_path / "vision.pt").is_file()
