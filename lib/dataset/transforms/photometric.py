"""Photometric augmentation: colors, blur and JPEG artifacts of a crop; joints and masks stay.

Photometric distortions as in SSD (Liu et al., ECCV 2016, section 2.2, after Howard 2013), made by
the loader processes on 8-bit crops.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from lib.dataset.samples import Sample

LUMA = np.array([0.299, 0.587, 0.114])  # shares of R, G, B in a gray pixel
MIDDLE = 128.0  # the gray that contrast leaves as it is
BLUR_SIGMAS = (0.3, 2.0)  # pixels of the crop
JPEG_QUALITIES = (20, 90)


@dataclass(frozen=True)
class RandomColor:
    """Random brightness, contrast, saturation and hue, or gray (DATASET.* keys of these names).

    All are linear in the color of a pixel, so one matrix does them together. Black stays black:
    where a crop leaves its image, it is so in evaluation, too.
    """

    brightness: float = 0.0  # of factors U(1 - brightness, 1 + brightness); likewise the next two
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0  # largest turn of the color circle, in degrees
    gray: float = 0.0  # probability of no color at all

    def matrix(self, rng: np.random.Generator) -> np.ndarray:
        """(3, 4): RGB and 1 -> RGB, values from 0 to 255."""
        strengths = np.array([self.brightness, self.contrast, self.saturation])
        brightness, contrast, saturation = rng.uniform(1 - strengths, 1 + strengths)
        angle = np.deg2rad(rng.uniform(-self.hue, self.hue))
        saturation = 0.0 if rng.random() < self.gray else saturation
        colors = contrast * brightness * saturate(saturation) @ rotate(angle)
        return np.column_stack([colors, np.full(3, MIDDLE * (1 - contrast))])

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        colored = cv2.transform(sample.image, self.matrix(rng).astype(np.float32))
        black = cv2.inRange(sample.image, np.zeros(3), np.zeros(3))
        image = cv2.copyTo(colored, cv2.bitwise_not(black))
        return sample._replace(image=image, steps=(*sample.steps, "other colors"))


def saturate(factor: float) -> np.ndarray:
    """(3, 3) that multiplies distances from gray by `factor`."""
    return factor * np.eye(3) + (1 - factor) * np.tile(LUMA, (3, 1))


def rotate(angle: float) -> np.ndarray:
    """(3, 3) that turns colors about the axis of grays, in radians."""
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    return np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) / 3 + np.sin(angle) * cross


@dataclass(frozen=True)
class RandomBlur:
    """A Gaussian blur of a random width, with a probability (DATASET.BLUR)."""

    probability: float

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        happens, sigma = rng.random() < self.probability, rng.uniform(*BLUR_SIGMAS)
        if not happens:
            return sample
        image = cv2.GaussianBlur(sample.image, (0, 0), sigma)
        return sample._replace(image=image, steps=(*sample.steps, f"blur of {sigma:.1f} pixels"))


@dataclass(frozen=True)
class RandomJpeg:
    """The artifacts of JPEG at a random quality, with a probability (DATASET.JPEG)."""

    probability: float

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        happens, quality = rng.random() < self.probability, int(rng.integers(*JPEG_QUALITIES))
        if not happens:
            return sample
        image = cv2.cvtColor(sample.image, cv2.COLOR_RGB2BGR)
        _, stream = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(stream, cv2.IMREAD_COLOR)
        assert decoded is not None
        image = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
        return sample._replace(image=image, steps=(*sample.steps, f"JPEG of quality {quality}"))
