"""The training corpus: thousands of spoken sentences as log mel power, with their tokens and sounds, in shards.

    corpus.build(Path("build/demo-stt/corpus"), count=20000, seed=1)      # needs espeak-ng and flite

Every utterance is a function of (seed, number), so a corpus is made again exactly by the same program versions.
"Sounds" are the phonemes that espeak-ng gives for each word in American English, whoever speaks: the targets of the
helper head that teaches the encoder to listen (``network.py``).
"""

import functools
import json
import random
import re
import subprocess
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch

from workbench.demo.recogniser import features, samples, sentences, tokens, voices

SHARD = 500


@dataclass(frozen=True)
class Utterance:
    """``mel`` (frames, 80): base-10 logarithm of mel power, half precision; ``text`` and ``sounds`` are ids."""

    mel: torch.Tensor
    text: tuple[int, ...]
    sounds: tuple[int, ...]


def train_sentences(seed: int, count: int) -> list[sentences.Sentence]:
    """The ``count`` training sentences of ``seed``: half all different, half as the grammar draws them; none is a sample's."""
    forbidden = samples.forbidden()
    different = sentences.distinct(f"train-{seed}", count // 2, forbidden)
    return different + sentences.frequent(f"train-{seed}", count - len(different), forbidden)


def speaker_of(seed: int, number: int) -> voices.Speaker:
    """The speaker of training utterance ``number``."""
    return voices.sample(random.Random(f"speaker-{seed}-{number}"))


@functools.lru_cache(maxsize=4096)
def phonemes(word: str) -> tuple[str, ...]:
    """The phonemes of a word, without stress marks."""
    command = ["espeak-ng", "-q", "--ipa", "--sep=_", "-v", "en-us", word]
    said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return tuple(part for part in re.split(r"[_\s]+", re.sub("[ˈˌ]", "", said)) if part)


def words(spoken: str) -> list[str]:
    """The words of a spoken form."""
    return re.findall(r"[a-z']+", spoken.lower())


def utter(seed: int, number: int, spoken: str) -> torch.Tensor:
    """Log mel power of one training utterance, half precision; three in ten are in a room."""
    numbers = np.random.default_rng((seed, number))
    wave = voices.speak(speaker_of(seed, number), spoken)
    if numbers.random() < 0.3:
        wave = features.room(wave, numbers, numbers.uniform(0.08, 0.4))
    return features.mel_power(wave).clamp(min=features.LOWEST).log10().half()


def _shard(job: tuple) -> None:
    torch.set_num_threads(1)
    path, seed, start, spoken = job
    mels = [utter(seed, start + place, text) for place, text in enumerate(spoken)]
    lengths = torch.tensor([len(mel) for mel in mels])
    temporary = path.with_suffix(".part")
    torch.save({"mel": torch.cat(mels), "lengths": lengths}, temporary)
    temporary.replace(path)


def build(folder: Path, count: int, seed: int, processes: int = 2) -> None:
    """Synthesise what is missing of the corpus and write ``sounds.json``, the list of phonemes by id (0 is blank)."""
    voices.require()
    folder.mkdir(parents=True, exist_ok=True)
    chosen = train_sentences(seed, count)
    lexicon = sorted({word for sentence in chosen for word in words(sentence.spoken)})
    known = {word: phonemes(word) for word in lexicon}
    (folder / "lexicon.json").write_text(json.dumps({"seed": seed, "count": count, "words": known}, ensure_ascii=False))
    jobs = []
    for start in range(0, count, SHARD):
        path = folder / f"shard-{start // SHARD:03d}.pt"
        if not path.is_file():
            jobs.append((path, seed, start, [sentence.spoken for sentence in chosen[start : start + SHARD]]))
    with Pool(processes) as pool:
        for _ in pool.imap_unordered(_shard, jobs):
            pass
    (folder / "done").touch()


@dataclass(frozen=True)
class Corpus:
    """What training needs: the utterances, every token id of their texts (ascending), and the phonemes by id."""

    utterances: list[Utterance]
    text_tokens: list[int]
    sounds: list[str]


def load(folder: Path) -> Corpus:
    """The utterances of the shards that are there; tokens and phonemes are those of the whole corpus."""
    stored = json.loads((folder / "lexicon.json").read_text())
    chosen = train_sentences(stored["seed"], stored["count"])
    names = ["", *sorted({sound for parts in stored["words"].values() for sound in parts})]
    ids = {name: place for place, name in enumerate(names)}
    found = []
    texts = [tuple(tokens.encode(" " + sentence.written)) for sentence in chosen]
    for path in sorted(folder.glob("shard-*.pt")):
        shard = torch.load(path, weights_only=True)
        start = int(path.stem.split("-")[1]) * SHARD
        for place, mel in enumerate(shard["mel"].split(shard["lengths"].tolist()), start):
            sounds = [ids[sound] for word in words(chosen[place].spoken) for sound in stored["words"][word]]
            found.append(Utterance(mel, texts[place], tuple(sounds)))
    return Corpus(found, sorted({token for text in texts for token in text}), names)
