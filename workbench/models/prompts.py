"""One prompt for every runtime: the model's own chat template, rendered once, as the same string for torch and MLX.

    renderer = PromptRenderer(processor, "llava")
    renderer.render("What is the sum?", images=1)   # "USER: <image>\\nWhat is the sum? ASSISTANT:"

A question may itself hold the characters of an image token ("Which tag is missing, <image> or ...?"). Processors
would expand them into an image that is not there, so ``escape`` puts a space before the last character.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from workbench.errors import ItemError, ModelError
from workbench.fingerprint import of_json

TEMPLATE_LIST = "chat template, content list"
TEMPLATE_TEXT = "chat template, image tokens in the text"
TOKEN_TEXT = "no template, image tokens before the text"
PROBE = "workbench probe"
MEDIA_WORDS = re.compile(r"image|img|vision|video|audio|frame|patch|media", re.IGNORECASE)

Fallback = Callable[[str, int], str]


class PromptRenderer:
    """Renders ``text`` with a number of images. ``kind`` says how, ``template_hash`` which template (None without one).

    ``fallback(text, images)`` is the runtime library's own format, used only when there is neither a template that takes
    images nor an image token; ``fallback_name`` names it in ``kind``.
    """

    def __init__(
        self,
        processor: Any,
        image_position: str = "first",
        fallback: Fallback | None = None,
        fallback_name: str = "library's own format",
    ):
        self.processor = processor
        self.images_first = image_position == "first"
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.template = getattr(processor, "chat_template", None) or getattr(self.tokenizer, "chat_template", None)
        self.image_token = _token(processor, "image_token") or _token(self.tokenizer, "image_token")
        self.media_tokens = self._media_tokens()
        self.kind, self._render = self._choose(fallback, fallback_name)
        self.template_hash = None if self.template is None or "template" not in self.kind else of_json(self.template, 32)

    def render(self, text: str, images: int) -> str:
        """The prompt as the processor wants it. Raises ItemError when the template refuses this question."""
        try:
            return self._render(self.escape(text), images)
        except Exception as error:  # a template is a program of the model's authors and may raise anything
            raise ItemError(
                f"the prompt for {images} images cannot be made", reason="model", why=f"{type(error).__name__}: {error}"
            ) from error

    def escape(self, text: str) -> str:
        """``text`` without any media token: ``<image>`` becomes ``<image >``."""
        for token in self.media_tokens:
            if token in text:
                text = text.replace(token, f"{token[:-1]} {token[-1]}")
        return text

    def adds_special_tokens(self, prompt: str) -> bool:
        """False when the template wrote the start token itself, as transformers' own ``apply_chat_template`` decides."""
        start = getattr(self.tokenizer, "bos_token", None)
        return not (start and prompt.startswith(start))

    def _media_tokens(self) -> tuple[str, ...]:
        found = {self.image_token}
        for owner in (self.processor, self.tokenizer):
            for name in ("video_token", "audio_token", "boi_token", "eoi_token", "vision_start_token", "vision_end_token"):
                found.add(_token(owner, name))
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        found.update(str(token) for token in added.values() if getattr(token, "special", False) and MEDIA_WORDS.search(str(token)))
        return tuple(sorted((token for token in found if token and len(token) > 1), key=len, reverse=True))

    def _choose(self, fallback: Fallback | None, fallback_name: str) -> tuple[str, Fallback]:
        if self.template is not None:
            if self._works(self._by_list):
                return TEMPLATE_LIST, self._by_list
            if self.image_token and self._works(self._by_text):
                return TEMPLATE_TEXT, self._by_text
        if self.image_token:
            return TOKEN_TEXT, self._by_token
        if fallback is not None:
            return fallback_name, fallback
        raise ModelError(
            "the model says nowhere how a prompt with an image looks", why="no chat template takes images, no image token is named"
        )

    def _works(self, render: Fallback) -> bool:
        """Does a template show the text once, and an image as something, but not as Python's spelling of a list?"""
        try:
            bare, pictured = render(PROBE, 0), render(PROBE, 1)
        except Exception:  # noqa: BLE001  see render
            return False
        if bare.count(PROBE) != 1 or pictured.count(PROBE) != 1 or "'type'" in pictured or bare == pictured:
            return False
        return self.image_token is None or pictured.count(self.image_token) > bare.count(self.image_token)

    def _by_list(self, text: str, images: int) -> str:
        pictures: list[dict[str, str]] = [{"type": "image"}] * images
        words = [{"type": "text", "text": text}]
        return self._apply(pictures + words if self.images_first else words + pictures)

    def _by_text(self, text: str, images: int) -> str:
        return self._apply(self._by_token(text, images))

    def _by_token(self, text: str, images: int) -> str:
        if not images:
            return text
        tokens = self.image_token * images
        return f"{tokens}\n{text}" if self.images_first else f"{text}\n{tokens}"

    def _apply(self, content: Any) -> str:
        messages = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(
            messages, chat_template=self._named_template(), tokenize=False, add_generation_prompt=True
        )

    def _named_template(self) -> str:
        if isinstance(self.template, dict):
            return self.template.get("default") or next(iter(self.template.values()))
        return self.template


def _token(owner: Any, name: str) -> str | None:
    value = getattr(owner, name, None)
    text = getattr(value, "content", value)
    return text if isinstance(text, str) and text else None
