"""Held-out values stay out of training, and questions are well formed."""

import random

from workbench.demo import measure, packing, questions


def test_a_tenth_is_held_out_and_order_of_summands_does_not_matter():
    pairs = [(a, b) for a in range(1, 31) for b in range(1, 31)]
    assert 0.07 < sum(map(questions.is_held_out, pairs)) / len(pairs) < 0.13
    assert all(questions.is_held_out((a, b)) == questions.is_held_out((b, a)) for a, b in pairs)
    strings = [f"{number:04d}" for number in range(10_000)]
    assert 0.09 < sum(map(questions.is_held_out, strings)) / len(strings) < 0.12
    assert not any(questions.is_held_out(str(number)) for number in range(100))


def test_training_scenes_hold_no_held_out_value_and_fresh_items_nothing_else():
    generator = random.Random(0)
    for held_out in (False, True):
        for _ in range(150):
            digits = questions.sample_scene(generator, "digits", held_out).facts["digits"]
            assert len(digits) < 3 or questions.is_held_out(digits) == held_out
            facts = questions.sample_scene(generator, "sum", held_out).facts
            assert questions.is_held_out((facts["first"], facts["second"])) == held_out
    for item in measure.fresh_items("sum", 50):
        facts = item.scenes[0].facts
        assert questions.is_held_out((facts["first"], facts["second"]))


def test_four_different_options_and_the_right_one_is_marked():
    generator = random.Random(2)
    for name in ("letter, MMMU", "letter, MMStar", "choice text, MathVista"):
        for item in measure.fresh_items(name, 60):
            prompt = item.prompt
            assert len(set(prompt.options)) == 4 and prompt.right in prompt.options
            ends = prompt.ends()
            assert all(prompt.text[:end].endswith(option) for end, option in zip(ends, prompt.options, strict=True))
            assert ends == sorted(set(ends))
            assert [mark[2] for mark in packing.block_of(prompt).marks].count(True) == 1
    for _ in range(200):
        scene = questions.sample_scene(generator, generator.choice(questions.KINDS), True)
        for skill in questions.skills_of(scene):
            question = questions.ask(generator, scene, skill, held_out=True)
            assert question.bare not in question.distractors and len(set(question.distractors)) >= 3
