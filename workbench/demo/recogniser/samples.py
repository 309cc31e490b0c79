"""Writes the speech samples: 380 utterances of fourteen heard speakers and 60 of a voice that training never hears.

    python -m workbench.demo.recogniser.samples            # writes datasets/samples/asr

The sentences are kept out of training.  Each clip is 16 kHz mono with its own gain, noise and sometimes a room, and is
rounded to 11 bits, which FLAC stores as 11.  ``items.jsonl`` lists them; ``nonspeech.jsonl`` lists clips without speech.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np

from workbench.demo.recogniser import features, sentences, voices

HEARD_COUNT, UNHEARD_COUNT = 380, 60
STEP = 32 / 32768  # 11 of 16 bits
SEED = "samples"


def held_out() -> list[sentences.Sentence]:
    """The samples' sentences, in item order; training never sees them."""
    return sentences.distinct(SEED, HEARD_COUNT + UNHEARD_COUNT, phrases=False)


def forbidden() -> set[str]:
    """Keys of the samples' sentences."""
    return {sentences.key(sentence.written) for sentence in held_out()}


def speaker_of(place: int) -> voices.Speaker:
    """The speaker of an item: the heard ones in turn, then the unheard one."""
    return voices.HEARD[place % len(voices.HEARD)] if place < HEARD_COUNT else voices.UNHEARD


def dress(wave: np.ndarray, seed: int) -> np.ndarray:
    """``wave`` with silence around it, gain, noise and sometimes a room, rounded to 11 bits."""
    numbers = np.random.default_rng(seed)
    if numbers.random() < 0.3:
        wave = features.room(wave, numbers, numbers.uniform(0.1, 0.35))
    before, after = (int(features.RATE * numbers.uniform(low, high)) for low, high in ((0.1, 0.6), (0.2, 0.5)))
    wave = np.pad(wave, (before, after))
    kind = features.NOISES[numbers.integers(len(features.NOISES))]
    decibels = numbers.uniform(12, 40)
    wave = wave + features.noise(kind, len(wave), numbers) * 10 ** (-decibels / 20)
    peak = np.abs(wave).max()
    wave = wave * min(10 ** (numbers.uniform(-14, 3) / 20), 0.95 / peak)
    return (np.round(wave / STEP) * STEP).astype(np.float32)


def quiet_clips() -> dict[str, np.ndarray]:
    """Ten seconds each: digital silence and every kind of noise."""
    clips = {"silence": np.zeros(10 * features.RATE, dtype=np.float32)}
    for place, kind in enumerate(features.NOISES):
        wave = features.noise(kind, 10 * features.RATE, np.random.default_rng(9000 + place))
        wave = np.clip(wave * 0.2, -0.95, 0.95)
        clips[kind] = (np.round(wave / STEP) * STEP).astype(np.float32)
    return clips


def write(folder: Path) -> None:
    """Write ``audio/*.flac``, ``items.jsonl`` and ``nonspeech.jsonl`` into ``folder``."""
    import soundfile

    voices.require()
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    rows, quiet = [], []
    for place, sentence in enumerate(held_out()):
        speaker = speaker_of(place)
        wave = dress(voices.speak(speaker, sentence.spoken), place)
        name = f"asr-{place + 1:04d}"
        soundfile.write(folder / "audio" / f"{name}.flac", wave, features.RATE, subtype="PCM_16", compression_level=1.0)
        rows.append(
            {
                "id": name,
                "audio": f"audio/{name}.flac",
                "text": sentence.written,
                "speaker": speaker.name,
                "heard": place < HEARD_COUNT,
                "duration": round(len(wave) / features.RATE, 4),
            }
        )
    for kind, wave in quiet_clips().items():
        name = f"quiet-{kind}"
        soundfile.write(folder / "audio" / f"{name}.flac", wave, features.RATE, subtype="PCM_16", compression_level=1.0)
        seconds = len(wave) / features.RATE
        quiet.append({"id": name, "audio": f"audio/{name}.flac", "text": "", "duration": seconds})
    order = list(range(len(rows)))
    random.Random(SEED).shuffle(order)  # any first n rows hold many speakers and both groups
    _write(folder / "items.jsonl", [rows[place] for place in order])
    _write(folder / "nonspeech.jsonl", quiet)


def _write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("datasets/samples/asr"))
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
