"""Media decoded: ``load_audio`` makes samples of a sound, ``log_mel`` makes what a speech model takes of samples.

log_mel(load_audio("talk.flac").samples)      # float32 (80, 3000)
"""

from workbench.data.mel import HOP, WINDOW_FRAMES, WINDOW_SAMPLES, log_mel, mel_filters, mel_window
from workbench.data.sound import MAX_SECONDS, RATE, Sound, load_audio

__all__ = [
    "HOP",
    "MAX_SECONDS",
    "RATE",
    "WINDOW_FRAMES",
    "WINDOW_SAMPLES",
    "Sound",
    "load_audio",
    "log_mel",
    "mel_filters",
    "mel_window",
]
