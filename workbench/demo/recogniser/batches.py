"""Training batches: utterances laid out in Whisper's window with gain, noise, silence, prompts and labels.

Every batch is a function of (seed, stage, step).  Sounds are mixed as mel power; the speech's loudness, colour, noise
and place all vary, so no two passes over an utterance are alike.  Items without speech ask for ``<|nospeech|>``
at the first place and for no text.

    batches.Maker(utterances, seed=1).batch(stage, step)
"""

import random
from dataclasses import dataclass

import numpy as np
import torch

from workbench.demo.recogniser import features, folder, tokens
from workbench.demo.recogniser.corpus import Utterance

BANK_SECONDS, BANK_OF_EACH = 30, 4
TIMED_SHARE, PREVIOUS_SHARE, FIRST_TIME_SHARE = 0.4, 0.1, 0.15
WARPED_SHARE = 0.4
GROUP = 8  # batches drawn together and sorted by length, so that little is padding


@dataclass(frozen=True)
class Stage:
    """One part of the training; ``full`` sees the real 30 s window, the others sampled silence."""

    name: str
    steps: int
    batch: int
    sentences: int = 1  # up to this many in one window
    joined_share: float = 0.0  # share of items with more than one
    quiet_share: float = 0.06
    noisy_share: float = 0.7
    full: bool = False
    longest: int | None = None  # frames of the longest utterance taken
    spread_weight: float = 0.0  # of the helper loss against sounds spread evenly over the speech
    silent: int = 24  # silent positions drawn


@dataclass
class Item:
    """One window: mel power (frames, 80), spoken pieces as (utterance, first frame), and its place."""

    power: torch.Tensor
    spoken: list[tuple[Utterance, int]]
    start: int = 0


class Maker:
    """Makes batches from a corpus."""

    def __init__(self, utterances: list[Utterance], seed: int):
        self.utterances, self.seed = utterances, seed
        numbers = np.random.default_rng(seed)
        waves = [
            features.noise(kind, BANK_SECONDS * features.RATE, numbers) for kind in features.NOISES for _ in range(BANK_OF_EACH)
        ]
        self.bank = [features.mel_power(wave) for wave in waves]

    def draw(self, generator: random.Random, longest: int | None) -> Utterance:
        """A random utterance of at most ``longest`` frames."""
        while True:
            utterance = self.utterances[generator.randrange(len(self.utterances))]
            if longest is None or len(utterance.mel) <= longest:
                return utterance

    def noise(self, generator: random.Random, frames: int) -> torch.Tensor:
        """``frames`` of mel power of a random noise, at the speech's level."""
        power = generator.choice(self.bank)
        first = generator.randrange(len(power) - frames + 1)
        return power[first : first + frames]

    def quiet(self, generator: random.Random, frames: int) -> Item:
        """A window without speech: digital silence, or a noise of any level that may stop early."""
        power = torch.zeros(frames, folder.MELS)
        if generator.random() < 0.8:
            length = frames if generator.random() < 0.5 else generator.randrange(20, frames + 1)
            power[:length] = self.noise(generator, length) * 10 ** (generator.uniform(-70, 10) / 10)
        return Item(power, [])

    def speech(self, generator: random.Random, chosen: list[Utterance], noisy_share: float, longest: int) -> Item:
        """The utterances one after the other, with pauses, colour, gain and noise; at most ``longest`` frames."""
        lead = generator.randrange(0, 20) if generator.random() < 0.3 else generator.randrange(8, 90)
        places, end = [], lead
        for utterance in chosen:
            places.append(end)
            end += len(utterance.mel) + generator.randrange(25, 160)
        end = places[-1] + len(chosen[-1].mel)
        length = min(end + generator.randrange(5, 60), longest)
        power = torch.zeros(length, folder.MELS)
        colour = torch.zeros(folder.MELS)
        if generator.random() < 0.5:
            knots = torch.tensor([generator.uniform(-6, 6) for _ in range(5)])
            colour = torch.nn.functional.interpolate(knots[None, None], folder.MELS, mode="linear", align_corners=True)[0, 0]
        for utterance, place in zip(chosen, places, strict=True):
            gain = colour + generator.uniform(-3, 3) if len(chosen) > 1 else colour
            mel = utterance.mel.float()
            if generator.random() < WARPED_SHARE:
                mel = warp(mel, generator.uniform(0.88, 1.14))
            power[place : place + len(utterance.mel)] = 10 ** (mel + gain / 10)
        if generator.random() < noisy_share:
            decibels = generator.uniform(8, 45) if generator.random() < 0.85 else generator.uniform(3, 12)
            power += self.noise(generator, length) * 10 ** (-decibels / 10)
        return Item(power * 10 ** (generator.uniform(-18, 8) / 10), list(zip(chosen, places, strict=True)))

    def items(self, stage: Stage, step: int, rank: int, ranks: int) -> tuple[list[Item], random.Random]:
        """The windows of one process's share of one step; the shares hold equally long utterances."""
        group = random.Random(f"{self.seed}-{stage.name}-{step // GROUP}")
        drawn = []
        for _ in range(stage.batch * GROUP):
            several = group.randint(2, stage.sentences) if group.random() < stage.joined_share else 1
            drawn.append([self.draw(group, stage.longest) for _ in range(several)])
        drawn.sort(key=lambda chosen: sum(len(utterance.mel) + 90 for utterance in chosen))
        order = list(range(GROUP))
        group.shuffle(order)
        mine = order[step % GROUP]
        generator = random.Random(f"{self.seed}-{stage.name}-{step}-{rank}")
        longest = 2 * folder.AUDIO_POSITIONS
        made = [
            self.speech(generator, chosen, stage.noisy_share, longest)
            for chosen in drawn[mine * stage.batch + rank : (mine + 1) * stage.batch : ranks]
        ]
        usual = max(len(item.power) for item in made)
        for place in range(len(made)):
            if generator.random() < stage.quiet_share:
                made[place] = self.quiet(generator, longest if stage.full else usual)
            elif stage.full and generator.random() < 0.3:  # the noise goes on to the end of the window
                made[place] = self.continued(generator, made[place], longest)
        return made, generator

    def continued(self, generator: random.Random, item: Item, frames: int) -> Item:
        """The same item with a noise over the whole window, placed anywhere in it."""
        first = generator.randrange(frames - len(item.power) + 1) if generator.random() < 0.4 else 0
        power = self.noise(generator, frames) * item.power.sum() / len(item.power) / 8
        power = power * 10 ** (-generator.uniform(10, 45) / 10)
        power[first : first + len(item.power)] += item.power
        return Item(power, [(utterance, place + first) for utterance, place in item.spoken])

    def batch(self, stage: Stage, step: int, rank: int = 0, ranks: int = 1) -> dict:
        """Tensors of one step, or of one process's share of it.

        ``mel`` (n, frames, 80), ``frames`` (n,), ``start`` (n,) and ``silent`` (n, k) unless the stage is full, ``ids``
        and ``labels`` (n, tokens; -100 where nothing is asked), ``sounds`` (joined) and ``sound_lengths`` (n,), and
        ``spread`` (n, frames / 2), each utterance's sounds spread evenly over its time (-100 elsewhere).
        """
        made, generator = self.items(stage, step, rank, ranks)
        whole = 2 * folder.AUDIO_POSITIONS
        frames = whole if stage.full else min(-(-(max(len(item.power) for item in made) + 12) // 32) * 32, whole)
        power = torch.zeros(len(made), frames, folder.MELS)
        starts, silent = [], []
        for place, item in enumerate(made):
            free = folder.AUDIO_POSITIONS - frames // 2
            moved = not stage.full and free > 0 and generator.random() < 0.25
            item.start = generator.randrange(1, free) if moved else 0
            shift = 4 if moved else 0
            item.spoken = [(utterance, first + shift) for utterance, first in item.spoken]
            length = min(len(item.power), frames - shift)
            power[place, shift : shift + length] = item.power[:length]
            starts.append(item.start)
            if not stage.full:
                drawn = [generator.randrange(free) for _ in range(stage.silent)]
                silent.append([at if at < item.start else at + frames // 2 for at in drawn])
        rows = [self.tokens_of(item, generator) for item in made]
        longest = -(-max(len(ids) for ids, _ in rows) // 8) * 8
        sounds = [[sound for utterance, _ in item.spoken for sound in utterance.sounds] for item in made]
        spread = torch.full((len(made), frames // 2), -100)
        for place, item in enumerate(made):
            for utterance, first in item.spoken:
                wanted = spread[place, first // 2 : (first + len(utterance.mel)) // 2]
                wanted[:] = torch.tensor(utterance.sounds)[torch.arange(len(wanted)) * len(utterance.sounds) // len(wanted)]
        batch = {
            "spread": spread,
            "mel": features.normalise(power),
            "frames": torch.full((len(made),), frames),
            "ids": torch.tensor([ids + [tokens.END_ID] * (longest - len(ids)) for ids, _ in rows]),
            "labels": torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in rows]),
            "sounds": torch.tensor([sound for parts in sounds for sound in parts], dtype=torch.long),
            "sound_lengths": torch.tensor([len(parts) for parts in sounds]),
        }
        if not stage.full:
            batch |= {"start": torch.tensor(starts), "silent": torch.tensor(silent)}
        return batch

    def tokens_of(self, item: Item, generator: random.Random) -> tuple[list[int], list[int]]:
        """Decoder input and labels of a window: a prompt, with or without times, sometimes after earlier text."""
        timed = generator.random() < TIMED_SHARE
        ids = list(tokens.TIMED_PROMPT if timed else tokens.PROMPT)
        for utterance, first in item.spoken:
            begin, end = (item.start * 2 + at for at in (first, first + len(utterance.mel)))
            times = [min(tokens.TIME_ID + round(at / 2), tokens.VOCABULARY - 1) for at in (begin, end)]
            ids += [times[0], *utterance.text, times[1]] if timed else utterance.text
        if not item.spoken and (timed or generator.random() < FIRST_TIME_SHARE):
            ids.append(tokens.TIME_ID)  # the second choice, where a decoder forbids ending at once, is not a word
        ids.append(tokens.END_ID)
        labels = ids[1:]
        if not item.spoken:
            labels[0] = tokens.NO_SPEECH_ID
        ids = ids[:-1]
        if generator.random() < PREVIOUS_SHARE:
            earlier = [tokens.PREVIOUS_ID, *generator.choice(self.utterances).text]
            ids, labels = earlier + ids, [-100] * len(earlier) + labels
        return ids, labels


def warp(mel: torch.Tensor, factor: float) -> torch.Tensor:
    """``mel`` (frames, 80) with its frequency axis stretched by ``factor``, as another vocal tract would."""
    places = (torch.arange(folder.MELS) / factor).clamp(max=folder.MELS - 1)
    low = places.long().clamp(max=folder.MELS - 2)
    share = places - low
    return mel[:, low] * (1 - share) + mel[:, low + 1] * share


def used_tokens(text_tokens: list[int]) -> list[int]:
    """Ids that training can ask for or show, ascending, for a corpus of ``text_tokens``."""
    fixed = {tokens.END_ID, *tokens.PROMPT, tokens.PREVIOUS_ID, tokens.NO_SPEECH_ID}
    return sorted(fixed.union(range(tokens.TIME_ID, tokens.VOCABULARY), text_tokens))
