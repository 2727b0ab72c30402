"""Augmentation: drawn once per sample as a value, then applied to image, masks and joints."""

from lib.dataset.transforms.affine import Affine, AffineRange

__all__ = ["Affine", "AffineRange"]
