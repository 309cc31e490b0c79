"""Measures the recogniser on the samples and on clips without speech, and writes the table of its README.

    python -m workbench.demo.recogniser.measure                # prints the table
    python -m workbench.demo.recogniser.measure --write        # and puts it into the folder's README.md

transformers alone transcribes: Whisper's features of the full 30 s, language and task given, greedy.  Word error rates are
of the corpus, under the ``whisper`` normaliser, with 95 % intervals by resampling utterances and by resampling speakers.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workbench import locate
from workbench.demo.recogniser import features, tokens
from workbench.metrics import wer
from workbench.metrics.normalise import profile_named

PROFILE = "whisper"
BATCH, LONGEST_TEXT = 8, 60
QUIET_SECONDS, QUIET_OF_EACH = 30, 8
HALF_CLIPS = 100  # half precision is slow on a CPU
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


@dataclass
class Heard:
    """What the model made of one clip: text, generated ids, and the probability of ``<|nospeech|>``."""

    text: str
    ids: list[int]
    no_speech: float


class Transcriber:
    """The folder's model in transformers, in float32 or float16; the stored half-precision values either way."""

    def __init__(self, folder: Path, half: bool = False):
        import torch
        from transformers import WhisperForConditionalGeneration, WhisperProcessor

        self.dtype = torch.float16 if half else torch.float32
        self.processor = WhisperProcessor.from_pretrained(folder)
        self.model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=self.dtype).eval()

    def hear(self, waves: list[np.ndarray], timed: bool = False) -> Iterator[Heard]:
        """Transcripts of mono 16 kHz clips of at most 30 s, in order."""
        import torch

        for start in range(0, len(waves), BATCH):
            clips = waves[start : start + BATCH]
            inputs = self.processor(clips, sampling_rate=features.RATE, return_tensors="pt").input_features.to(self.dtype)
            with torch.inference_mode():
                encoded = self.model.model.encoder(inputs)
                first = torch.full((len(clips), 1), tokens.START_ID)
                scores = self.model(encoder_outputs=encoded, decoder_input_ids=first).logits[:, 0].float()
                chances = scores.softmax(-1)[:, tokens.NO_SPEECH_ID]
                made = self.model.generate(
                    inputs,
                    encoder_outputs=encoded,
                    language="en",
                    task="transcribe",
                    return_timestamps=timed,
                    max_new_tokens=LONGEST_TEXT,
                    do_sample=False,
                )
            for row, chance in zip(made.tolist(), chances.tolist(), strict=True):
                kept = [token for token in row if token != tokens.END_ID and token not in tokens.PROMPT]
                yield Heard(self.processor.tokenizer.decode(kept, skip_special_tokens=True).strip(), kept, chance)


def read_samples(limit: int | None = None) -> tuple[list[dict], list[np.ndarray]]:
    """The rows of the samples and their sound.

    Raises:
        FileNotFoundError: the samples are missing.
    """
    import soundfile

    listing = locate.find("datasets/samples/asr/items.jsonl")
    if listing is None:
        raise FileNotFoundError("datasets/samples/asr is missing; make it again with: python -m workbench.demo.recogniser.samples")
    rows = [json.loads(line) for line in listing.read_text(encoding="utf-8").splitlines()][:limit]
    return rows, [soundfile.read(listing.parent / row["audio"], dtype="float32")[0] for row in rows]


def quiet_clips() -> dict[str, list[np.ndarray]]:
    """Seeded clips of 30 s without speech: digital silence once, and each noise at several levels."""
    found = {"digital silence": [np.zeros(QUIET_SECONDS * features.RATE, np.float32)]}
    for place, kind in enumerate(features.NOISES):
        found[kind] = []
        for number, level in enumerate(np.linspace(-60, 0, QUIET_OF_EACH)):
            wave = features.noise(kind, QUIET_SECONDS * features.RATE, np.random.default_rng((77, place, number)))
            found[kind].append(np.clip(wave * 10 ** (level / 20), -1, 1).astype(np.float32))
    return found


def counts_of(rows: list[dict], heard: list[Heard]) -> list[dict[str, int]]:
    """Word counts of each row under the profile's normaliser."""
    normalise = profile_named(PROFILE).normalise
    return [wer.count(normalise(row["text"]), normalise(given.text)) for row, given in zip(rows, heard, strict=True)]


def _percent(bounds: dict | None) -> str:
    return f"{bounds['low']:.1%} to {bounds['high']:.1%}" if bounds else ""


def table_row(name: str, rows: list[dict], counts: list[dict[str, int]]) -> str:
    """One row: rate, both intervals, utterances, words, errors."""
    if not counts:
        return f"| {name} | | | | 0 | 0 | 0 |"
    sums, found = wer.total(counts), wer.intervals(counts, [row["speaker"] for row in rows])
    both = f"{_percent(found['utterance'])} | {_percent(found.get('speaker'))}"
    return f"| {name} | {wer.rates(counts)['wer']:.1%} | {both} | {len(counts)} | {sums['words']} | {wer.errors(sums)} |"


def table(rows: list[dict], counts: list[dict[str, int]], timed: list[dict[str, int]]) -> list[str]:
    """The lines of the table of word error rates."""
    lines = [
        "| voices | WER | 95 %, utterances | 95 %, speakers | utterances | words | errors |",
        "|---|---|---|---|---|---|---|",
    ]

    def add(name: str, wanted, given: list[dict[str, int]]) -> None:
        chosen = [place for place, row in enumerate(rows) if wanted(row)]
        lines.append(table_row(name, [rows[place] for place in chosen], [given[place] for place in chosen]))

    add("**heard, all**", lambda row: row["heard"], counts)
    add("heard, all, with time tokens", lambda row: row["heard"], timed)
    add("**never heard**", lambda row: not row["heard"], counts)
    for speaker in sorted({row["speaker"] for row in rows if row["heard"]}):
        add(speaker, lambda row, speaker=speaker: row["speaker"] == speaker, counts)
    return lines


def quiet_lines(transcriber: Transcriber) -> list[str]:
    """The lines on clips without speech."""
    lines = ["| clips without speech | n | with text | lowest no-speech probability |", "|---|---|---|---|"]
    for kind, waves in quiet_clips().items():
        heard = list(transcriber.hear(waves))
        texts = sum(bool(given.text) for given in heard)
        lines.append(f"| {kind} | {len(heard)} | {texts} | {min(given.no_speech for given in heard):.3f} |")
    return lines


def measure(folder: Path, limit: int | None = None) -> str:
    """The whole measured section, in Markdown."""
    rows, waves = read_samples(limit)
    single = Transcriber(folder)
    heard = list(single.hear(waves))
    timed = list(single.hear(waves, timed=True))
    half = list(Transcriber(folder, half=True).hear(waves[:HALF_CLIPS]))
    same = sum(a.ids == b.ids for a, b in zip(heard, half, strict=False))
    highest = max(given.no_speech for given in heard)
    lines = table(rows, counts_of(rows, heard), counts_of(rows, timed))
    lines += ["", *quiet_lines(single), ""]
    lines += [
        f"Highest no-speech probability of a clip with speech: {highest:.3f} ({len(heard)} clips). "
        f"float16 and float32 arithmetic gave the same tokens on {same} of the first {len(half)} clips."
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=None, help="default: the bundled model")
    parser.add_argument("--limit", type=int, default=None, help="only the first samples")
    parser.add_argument("--write", action="store_true", help="replace the section of the folder's README.md")
    arguments = parser.parse_args()
    folder = arguments.folder or locate.demo_model("stt")
    if folder is None:
        raise SystemExit("the bundled model is missing; train it: python -m workbench.demo.recogniser.train --out build/demo-stt")
    from transformers import logging

    logging.set_verbosity_error()  # the same remark on every call of generate
    started = time.time()
    text = measure(folder, arguments.limit)
    print(text)
    if arguments.write:
        readme = folder / "README.md"
        before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
        readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    print(f"\n{time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
