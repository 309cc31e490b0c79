"""The demo tokenizer spells any text and keeps every word of its prompts whole."""

import random
import re

import pytest

from workbench.demo import formats, questions, tokenizer


@pytest.fixture(scope="module")
def built():
    return tokenizer.build()


@pytest.mark.parametrize(
    "text",
    [
        "What is the sum of the two numbers?",
        "  two  leading spaces, a tab\tand\n\nlines\r\n",
        "naïve café, 日本語, emoji \N{GRINNING FACE}, math ∑∫ and \x00\x07",
        "(A) red\n(B) 123\n\nAnswer with the option's letter from the given choices directly.",
        "<image 1> is not an image token",
        "def f(x): return {x: [1.5, -2]}  # code",
    ],
)
def test_any_text_survives(built, text):
    assert built.decode(built.encode(text).ids, skip_special_tokens=False) == text


def test_random_text_survives(built):
    generator = random.Random(0)
    for _ in range(200):
        text = "".join(chr(generator.choice((generator.randint(32, 126), generator.randint(160, 9000)))) for _ in range(30))
        text = text.replace("▁", "_")
        assert built.decode(built.encode(text).ids) == text


def test_image_tag_in_text_is_not_the_image_token(built):
    assert tokenizer.IMAGE_ID not in built.encode("<image 1> <image 2>").ids
    assert built.encode("USER: <image>\n").ids.count(tokenizer.IMAGE_ID) == 1


def test_prompt_words_are_single_tokens(built):
    generator = random.Random(1)
    for _ in range(300):
        scene = questions.sample_scene(generator, generator.choice(questions.KINDS), False)
        question = questions.ask(generator, scene, generator.choice(questions.skills_of(scene)))
        prompt = formats.render(question, generator.choice(list(formats.STYLES)), generator)
        pieces = built.encode(f"{prompt.text} ASSISTANT: {prompt.answer}").tokens
        spelled = [piece for piece in pieces if re.fullmatch("▁?[a-z]", piece)]
        assert set(spelled) <= {"▁a", "e", "g", "s", "a"}, (prompt.text, spelled)


def test_an_answer_word_is_the_token_of_its_option(built):
    option = built.encode("(A) zebra").tokens[-1]
    assert built.encode(" zebra").tokens == [option]
