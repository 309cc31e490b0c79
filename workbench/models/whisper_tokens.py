"""The tokens of Whisper: text pieces, and the special ones that tell the decoder what to do.

    tokens = WhisperTokens.from_folder(folder, 51865)
    tokens.start("en", "transcribe", timestamps=False)     # (50258, 50259, 50359, 50363)
    tokens.decode([50364, 2425, 50414])                    # " hello"; special tokens and times are left out

The layout is the same in every checkpoint: text tokens, then ``<|endoftext|>`` and the other special tokens, then one token for each
20 ms of a window. Source: openai/whisper, ``whisper/tokenizer.py``.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from workbench.errors import ItemError, ModelError

SECONDS_PER_TIMESTAMP = 0.02

MULTILINGUAL_FROM = 51865
"""Vocabularies of at least so many tokens know languages and tasks; English-only checkpoints have 51,864."""

WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages that are written without spaces between words: every character that decodes counts as a word."""

SYMBOLS = (
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    "<<",
    ">>",
    "<<<",
    ">>>",
    "--",
    "---",
    "-(",
    "-[",
    "('",
    '("',
    "((",
    "))",
    "(((",
    ")))",
)
SYMBOLS += ("[[", "]]", "{{", "}}", "♪♪", "♪♪♪")
NOTES = "♩♪♫♬♭♮♯"
"""May be several tokens each; the first one stands for nothing else."""


@dataclass(frozen=True)
class WhisperTokens:
    """``pieces`` and ``text`` turn text into ids and ids into text, without special tokens; ``languages`` maps a code to its token.

    Special ids that a checkpoint lacks are None (``no_speech`` of some, tasks and languages of English-only ones).
    """

    pieces: Callable[[str], list[int]]
    text: Callable[[Sequence[int]], str]
    end: int
    start_of_transcript: int
    translate: int
    transcribe: int
    start_of_language_model: int
    start_of_previous: int
    no_speech: int | None
    no_timestamps: int
    vocabulary: int
    languages: Mapping[str, int] = field(default_factory=dict)
    source: str = "tokenizer.json"

    @classmethod
    def from_folder(cls, folder: Path, vocabulary: int, generation: Mapping[str, Any] | None = None) -> WhisperTokens:
        """From ``tokenizer.json``. Raises ModelError when it is missing, or when its special tokens are not Whisper's."""
        from tokenizers import Tokenizer

        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise ModelError("the model folder has no tokenizer.json", why="text cannot be read from tokens without it")
        tokenizer = Tokenizer.from_file(str(path))
        known = {name: identity for name, identity in tokenizer.get_vocab().items() if name.startswith("<|")}
        return cls.of(
            known,
            vocabulary,
            pieces=lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
            text=lambda ids: tokenizer.decode(list(ids), skip_special_tokens=False),
            source="tokenizer.json",
            multilingual=(generation or {}).get("is_multilingual"),
        )

    @classmethod
    def standard(cls, vocabulary: int) -> WhisperTokens:
        """OpenAI's own token set, from the files that mlx-whisper ships: for checkpoints without a tokenizer."""
        from mlx_whisper.tokenizer import get_encoding

        multilingual = vocabulary >= MULTILINGUAL_FROM
        languages = vocabulary - 51765 - int(multilingual)
        encoding = get_encoding("multilingual" if multilingual else "gpt2", languages)
        known = {name: encoding.encode_single_token(name) for name in encoding.special_tokens_set}
        return cls.of(known, vocabulary, pieces=encoding.encode, text=encoding.decode, source="mlx-whisper")

    @classmethod
    def of(
        cls,
        special: Mapping[str, int],
        vocabulary: int,
        pieces: Callable[[str], list[int]],
        text: Callable[[Sequence[int]], str],
        source: str,
        multilingual: bool | None = None,
    ) -> WhisperTokens:
        """From the special tokens' ids by name. Raises ModelError for a name that is missing or has no row in the model."""

        def one(*names: str) -> int:
            found = next((special[name] for name in names if name in special), None)
            if found is None or found >= vocabulary:
                raise ModelError(
                    f"the tokenizer has no {names[0]}",
                    why="these are not the tokens of a Whisper model" if found is None else f"the model has {vocabulary} tokens",
                )
            return found

        first, last = one("<|startoftranscript|>") + 1, one("<|translate|>", "<|transcribe|>")
        silent = special.get("<|nospeech|>", special.get("<|nocaptions|>"))
        if multilingual is None:
            multilingual = vocabulary >= MULTILINGUAL_FROM
        between = {name[2:-2]: identity for name, identity in special.items() if first <= identity < last}
        return cls(
            pieces=pieces,
            text=text,
            end=one("<|endoftext|>"),
            start_of_transcript=first - 1,
            translate=one("<|translate|>"),
            transcribe=one("<|transcribe|>"),
            start_of_language_model=one("<|startoflm|>"),
            start_of_previous=one("<|startofprev|>"),
            no_speech=silent,
            no_timestamps=one("<|notimestamps|>"),
            vocabulary=vocabulary,
            languages=dict(sorted(between.items(), key=lambda pair: pair[1])) if multilingual else {},
            source=source,
        )

    @property
    def first_timestamp(self) -> int:
        """The token of 0.00 seconds; times follow each other in steps of 0.02."""
        return self.no_timestamps + 1

    def is_timestamp(self, token: int) -> bool:
        return token >= self.first_timestamp

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of the tokens, without special tokens and times. Bytes that are no whole character become U+FFFD."""
        return self.text([token for token in tokens if token < self.end])

    def encode(self, text: str) -> list[int]:
        """As a prompt is written: one space before it, none around it."""
        return list(self.pieces(" " + text.strip()))

    def start(self, language: str | None, task: str, timestamps: bool) -> tuple[int, ...]:
        """What the decoder is given first. Raises ItemError for a language that the checkpoint does not know.

        An English-only checkpoint is told neither language nor task.
        """
        found = [self.start_of_transcript]
        if self.languages:
            if language not in self.languages:
                raise ItemError(
                    f"the model knows no language {language!r}",
                    reason="model",
                    why=f"it knows {', '.join(list(self.languages)[:8])} ... ({len(self.languages)} in all)",
                )
            found += [self.languages[language], self.translate if task == "translate" else self.transcribe]
        elif language not in (None, "en") or task == "translate":
            raise ItemError(
                f"this checkpoint is English-only: it cannot {task} {language!r}", reason="model", why="it has no language tokens"
            )
        return (*found, *(() if timestamps else (self.no_timestamps,)))

    @cached_property
    def non_speech(self) -> tuple[int, ...]:
        """Tokens that write what nobody says: brackets, notes, speaker marks. Punctuation of sentences is not among them.

        A hyphen and an apostrophe are kept inside words and left out at their beginning. Source: openai/whisper,
        ``whisper/tokenizer.py``, ``non_speech_tokens``; equal to ``suppress_tokens`` of published checkpoints, less the special tokens.
        """
        found = {self.pieces(" -")[0], self.pieces(" '")[0]}
        for symbol in (*SYMBOLS, *NOTES):
            for pieces in (self.pieces(symbol), self.pieces(" " + symbol)):
                if len(pieces) == 1 or symbol in NOTES:
                    found.add(pieces[0])
        return tuple(sorted(found))

    @property
    def never_written(self) -> tuple[int, ...]:
        """Special tokens that are inputs only, or whose probability is read apart."""
        found = (self.translate, self.transcribe, self.start_of_transcript, self.start_of_previous, self.start_of_language_model)
        return tuple(sorted({*found, *(() if self.no_speech is None else (self.no_speech,))}))

    def words(self, tokens: Sequence[int], language: str | None) -> list[tuple[str, list[int]]]:
        """The words of text tokens with the tokens of each; a word keeps the space before it. Punctuation is a word of its own.

        A character that takes several tokens is never cut. Source: openai/whisper, ``whisper/tokenizer.py``, ``split_to_word_tokens``.
        """
        whole = self.text(list(tokens))
        parts: list[tuple[str, list[int]]] = []
        held: list[int] = []
        place = 0
        for token in tokens:
            held.append(token)
            text = self.text(held)
            broken = text.find("\ufffd")
            # U+FFFD that stands in the whole text too was said by the model; otherwise more bytes of the character follow.
            if broken < 0 or whole[place + broken : place + broken + 1] == "\ufffd":
                parts.append((text, held))
                place += len(text)
                held = []
        if held:
            parts.append((self.text(held), held))
        if language in WITHOUT_SPACES:
            return parts
        joined: list[tuple[str, list[int]]] = []
        for text, held in parts:
            alone = text.strip() in string.punctuation
            if not joined or text.startswith(" ") or alone:
                joined.append((text, list(held)))
            else:
                joined[-1] = (joined[-1][0] + text, joined[-1][1] + held)
        return joined
