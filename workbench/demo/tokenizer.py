"""The demo model's tokenizer: a hand-made Unigram vocabulary that can spell any text.

Words of the prompts and pictures are one token each, every digit is a token of its own, and 256 byte tokens catch
everything else, so ``decode(encode(text)) == text`` for any text (but the character U+2581, which reads as a space)
and there is never an unknown token.  An answer begins with the space after "ASSISTANT:", so strip decoded answers.

    "Question: 47+5" -> ▁Question : ▁ 4 7 + 5
"""

import json
import string
from pathlib import Path

from workbench.demo.vocabulary import COLOURS, SHAPES, SUBJECT_WORDS, WORDS, prompt_words

PAD, END, IMAGE = "<pad>", "</s>", "<image>"
PAD_ID, END_ID, IMAGE_ID = 0, 1, 2

# Images first, as many as the message holds, then the text; text-only messages have no image line.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}"
    "USER: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% set images = message['content'] | selectattr('type', 'equalto', 'image') | list %}"
    "{% for image in images %}<image>{% endfor %}"
    "{% if images %}{{ '\n' }}{% endif %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{% elif message['role'] == 'assistant' %}"
    " ASSISTANT: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}</s>"
    "{% else %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %} "
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def pieces() -> list[tuple[str, float]]:
    """Vocabulary in id order with Unigram log scores: the longest cover wins, bytes lose to everything."""
    found: dict[str, float] = {token: 0.0 for token in (PAD, END, IMAGE)}

    def add(piece: str, score: float) -> None:
        found.setdefault(piece, score)

    for value in range(256):
        add(f"<0x{value:02X}>", -100.0)
    for letter in "ABCDEFGHIJ":
        add(f"({letter})", -1.0)
        add(f"▁{letter}", -1.0)
    for word in (*COLOURS, *SHAPES, *WORDS, *SUBJECT_WORDS, *prompt_words()):
        if len(word) > 1:
            add(f"▁{word}", -1.0)
    for word in prompt_words():  # also at the start of a line or after punctuation
        if len(word) > 1:
            add(word, -1.5)
    add("▁a", -1.0)
    add("<image", -1.0)
    add("▁<image", -1.0)
    for character in "▁\n" + string.ascii_letters + string.digits + string.punctuation:
        add(character, -3.0)
    return list(found.items())


def build():
    """The fast tokenizer as a ``tokenizers.Tokenizer``."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.Unigram(pieces(), unk_id=PAD_ID, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=True)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (PAD, END, IMAGE)])
    return tokenizer


def save(folder: Path) -> None:
    """Write ``tokenizer.json``, its two side files and the chat template into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    build().save(str(folder / "tokenizer.json"))
    special = {"eos_token": END, "pad_token": PAD}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 2048,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": None,
        "unk_token": None,
        "extra_special_tokens": {"image_token": IMAGE},
        "chat_template": CHAT_TEMPLATE,
        **special,
    }
    _write(folder / "tokenizer_config.json", settings)
    _write(folder / "special_tokens_map.json", {**special, "image_token": IMAGE})
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def _write(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
