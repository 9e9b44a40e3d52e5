"""Sounds that can be told apart, and how like each other two are."""

import wave
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

RATE: Final = 48_000
LEAD_S: Final = 4.0  # of silence, for the call to be set up in
SPEECH_S: Final = 5.0
WINDOW_S: Final = 0.25
DRIFT_S: Final = 0.5  # a jitter buffer may shift a window against the whole by this much

Samples = NDArray[np.float64]


def speech(seed: int) -> Samples:
    """Return silence, then five seconds of chirps with gaps, as words are: no two of them alike, and none as in another seed."""
    chance = np.random.default_rng(seed)
    parts: list[Samples] = [np.zeros(int(LEAD_S * RATE))]
    spoken = 0.0
    while spoken < SPEECH_S:
        length, gap = chance.uniform(0.15, 0.4), chance.uniform(0.03, 0.15)
        times = np.arange(int(length * RATE)) / RATE
        low, high = chance.uniform(200, 1500), chance.uniform(500, 3500)
        phase = 2 * np.pi * (low * times + (high - low) * times**2 / (2 * length))
        parts += [0.5 * np.sin(phase) * np.hanning(times.size), np.zeros(int(gap * RATE))]
        spoken += length + gap
    return np.concatenate(parts)


def write_wav(path: Path, samples: Samples) -> None:
    """Write 16 bit mono."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def likeness(said: Samples, heard: Samples) -> float:
    """Return how well the windows of ``said`` are found in ``heard``, in the middle: 1 is the same sound, near 0 another one.

    Each window may lie a little off the common lag, since a jitter buffer waits and skips.
    """
    if not np.any(heard):
        return 0.0
    speech_only = said[int(LEAD_S * RATE) :]
    lag = int(np.argmax(_cross(heard, speech_only)))
    size, drift = int(WINDOW_S * RATE), int(DRIFT_S * RATE)
    found: list[float] = []
    for start in range(0, speech_only.size - size, size):
        window = speech_only[start : start + size]
        if np.sqrt(np.mean(window**2)) < 0.05:
            continue
        begin = max(0, lag + start - drift)
        place = heard[begin : lag + start + size + drift]
        found.append(_best(window, place) if place.size > size else 0.0)
    return float(np.median(found))


def _best(window: Samples, place: Samples) -> float:
    sums = np.concatenate(([0.0], np.cumsum(place**2)))
    energy = sums[window.size :] - sums[: -window.size]
    cross = _cross(place, window)[: energy.size]
    return float(np.max(cross / (np.sqrt(np.maximum(energy, 1e-9)) * np.linalg.norm(window))))


def _cross(long: Samples, short: Samples) -> Samples:
    """Correlate at every lag from 0 on, by way of the spectrum."""
    size = 1 << (long.size + short.size).bit_length()
    spectrum: Any = np.fft.rfft(long, size) * np.conj(np.fft.rfft(short, size))
    return np.asarray(np.fft.irfft(spectrum, size)[: long.size], dtype=np.float64)
