"""The synthetic speakers: espeak-ng and flite voices, with pitch, rate and vocal tract varied.

``HEARD`` are the speakers of the samples that training hears too (with other pitches and rates); ``UNHEARD`` is a voice
that training never hears.  Both programs are needed for training and for new samples only.

    wave = voices.speak(voices.HEARD[0], "turn on the lamp")     # float32, 16 kHz, silence trimmed
"""

import random
import shutil
import subprocess
from dataclasses import dataclass

import numpy as np

from workbench.errors import RuntimeMissing

RATE = 16000
UNHEARD_VOICE = "rms"


@dataclass(frozen=True)
class Speaker:
    """One way of speaking: ``pitch`` 0 to 99 and words a minute (espeak-ng), ``stretch`` (flite), ``speed`` (both).

    ``speed`` resamples, so it moves pitch and formants together, as a longer or shorter vocal tract does.
    """

    name: str
    engine: str
    voice: str
    pitch: int = 50
    words_per_minute: int = 165
    stretch: float = 1.0
    speed: float = 1.0


ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")
VARIANTS = ("", "", "+m1", "+m2", "+m3", "+m4", "+m7", "+f1", "+f2", "+f3", "+f4", "+f5", "+Annie", "+Andy", "+max")
FLITE = ("awb", "slt", "kal16", "kal")

HEARD = (
    Speaker("flite-awb", "flite", "awb"),
    Speaker("flite-slt", "flite", "slt"),
    Speaker("flite-kal16", "flite", "kal16"),
    Speaker("flite-kal", "flite", "kal"),
    Speaker("espeak-us-1", "espeak", "en-us", 50, 160),
    Speaker("espeak-us-2", "espeak", "en-us+f2", 55, 165),
    Speaker("espeak-us-3", "espeak", "en-us+m3", 40, 175),
    Speaker("espeak-gb-1", "espeak", "en-gb", 45, 170),
    Speaker("espeak-gb-2", "espeak", "en-gb+f4", 60, 160),
    Speaker("espeak-scotland", "espeak", "en-gb-scotland+m1", 45, 155),
    Speaker("espeak-rp", "espeak", "en-gb-x-rp+f1", 50, 170),
    Speaker("espeak-lancaster", "espeak", "en-gb-x-gbclan+m2", 35, 160),
    Speaker("espeak-midlands", "espeak", "en-gb-x-gbcwmd+m4", 50, 165),
    Speaker("espeak-caribbean", "espeak", "en-029", 55, 165),
)
UNHEARD = Speaker("flite-rms", "flite", UNHEARD_VOICE)


def require() -> None:
    """Raise RuntimeMissing with the command to type when a synthesiser is missing."""
    missing = [program for program in ("espeak-ng", "flite") if shutil.which(program) is None]
    if missing:
        raise RuntimeMissing(
            "speech cannot be synthesised",
            why=f"{' and '.join(missing)} not found",
            fix="apt-get install espeak-ng flite (needed for training and new samples only)",
        )


def sample(generator: random.Random) -> Speaker:
    """A random speaker for training; two in five come from flite, whose voices sound less alike."""
    speed = generator.uniform(0.92, 1.1) if generator.random() < 0.6 else 1.0
    if generator.random() < 0.4:
        voice = generator.choices(FLITE, (3, 3, 3, 1))[0]
        return Speaker(f"flite-{voice}", "flite", voice, stretch=round(generator.uniform(0.85, 1.15), 3), speed=speed)
    voice = generator.choice(ACCENTS) + generator.choice(VARIANTS)
    pitch, pace = generator.randint(25, 75), generator.randint(145, 200)
    return Speaker(f"espeak-{voice}", "espeak", voice, pitch, pace, 1.0, speed)


def speak(speaker: Speaker, spoken: str) -> np.ndarray:
    """Float32 samples at 16 kHz, silence trimmed at both ends, root mean square 0.1.

    Raises:
        RuntimeError: the synthesiser failed or gave silence.
    """
    if speaker.engine == "flite":
        settings = ["-voice", speaker.voice, "--setf", f"duration_stretch={speaker.stretch}"]
        command = ["flite", *settings, "-t", spoken, "-o", "/dev/stdout"]
    else:
        settings = ["-v", speaker.voice, "-p", str(speaker.pitch), "-s", str(speaker.words_per_minute)]
        command = ["espeak-ng", *settings, "--stdout", spoken]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode or len(done.stdout) < 100:
        raise RuntimeError(f"{' '.join(command)} gave no sound: {done.stderr.decode(errors='replace').strip()}")
    wave, rate = _read(done.stdout)
    return level(trim(_resample(wave, rate * speaker.speed)), 0.1)


def _read(data: bytes) -> tuple[np.ndarray, int]:
    """Samples of a WAV stream whose header may lack the length, since it was written to a pipe."""
    rate = int.from_bytes(data[24:28], "little")
    start = data.index(b"data") + 8
    pcm = data[start : start + (len(data) - start) // 2 * 2]
    return np.frombuffer(pcm, dtype="<i2").astype(np.float32) / 32768, rate


def _resample(wave: np.ndarray, rate: float) -> np.ndarray:
    import soxr

    return wave if rate == RATE else soxr.resample(wave, rate, RATE).astype(np.float32)


def trim(wave: np.ndarray, floor: float = 0.004) -> np.ndarray:
    """Without the quiet ends: blocks of 10 ms below ``floor`` times the largest block."""
    blocks = np.sqrt((wave[: len(wave) // 160 * 160].reshape(-1, 160) ** 2).mean(1))
    loud = np.flatnonzero(blocks > floor * blocks.max(initial=0))
    if not len(loud) or blocks.max() == 0:
        raise RuntimeError("the synthesiser gave silence")
    return wave[loud[0] * 160 : (loud[-1] + 1) * 160]


def level(wave: np.ndarray, target: float) -> np.ndarray:
    """``wave`` scaled to the root mean square ``target``."""
    return (wave * (target / np.sqrt((wave**2).mean()))).astype(np.float32)
