"""One prompt for every runtime."""

from __future__ import annotations

import pytest

from workbench.errors import ItemError, ModelError
from workbench.models.prompts import TEMPLATE_LIST, TEMPLATE_TEXT, TOKEN_TEXT, PromptRenderer

jinja2 = pytest.importorskip("jinja2", reason="needs jinja2 (pip install 'parity-workbench[torch]')")

LISTS = "{% for m in messages %}[{% for p in m.content %}{% if p.type == 'image' %}<img>{% else %}{{ p.text }}{% endif %}{% endfor %}]{% endfor %}"
STRINGS = "{% for m in messages %}[{{ m.content }}]{% endfor %}"


class Processor:
    """Just what the renderer looks at."""

    bos_token = "<s>"
    added_tokens_decoder: dict = {}

    def __init__(self, template=None, image_token="<img>"):
        self.chat_template, self.image_token = template, image_token

    def apply_chat_template(self, messages, chat_template, tokenize, add_generation_prompt):
        return jinja2.Template(chat_template).render(messages=messages, add_generation_prompt=add_generation_prompt)


@pytest.mark.parametrize(
    ("template", "kind", "none", "two"),
    [
        (LISTS, TEMPLATE_LIST, "[a]", "[<img><img>a]"),
        (STRINGS, TEMPLATE_TEXT, "[a]", "[<img><img>\na]"),
        (None, TOKEN_TEXT, "a", "<img><img>\na"),
        ({"other": "x", "default": LISTS}, TEMPLATE_LIST, "[a]", "[<img><img>a]"),
    ],
)
def test_kinds(template, kind, none, two):
    renderer = PromptRenderer(Processor(template))
    assert (renderer.kind, renderer.render("a", 0), renderer.render("a", 2)) == (kind, none, two)
    assert (renderer.template_hash is None) == (template is None)


def test_images_last():
    assert PromptRenderer(Processor(LISTS), "last").render("a", 1) == "[a<img>]"


def test_escape():
    renderer = PromptRenderer(Processor(LISTS))
    assert renderer.render("is <img> a tag?", 1) == "[<img>is <img > a tag?]"


def test_nothing_known_is_an_error_unless_the_library_helps():
    with pytest.raises(ModelError):
        PromptRenderer(Processor(None, None))
    renderer = PromptRenderer(Processor(None, None), fallback=lambda text, images: f"{images}:{text}", fallback_name="library")
    assert (renderer.kind, renderer.render("a", 2)) == ("library", "2:a")


def test_template_that_refuses_a_question():
    renderer = PromptRenderer(Processor(LISTS))
    renderer.processor.apply_chat_template = None
    with pytest.raises(ItemError):
        renderer.render("a", 0)


def test_start_token_is_not_doubled():
    renderer = PromptRenderer(Processor(LISTS))
    assert renderer.adds_special_tokens("[a]") and not renderer.adds_special_tokens("<s>[a]")
