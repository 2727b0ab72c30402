"""Augmentation of training samples."""

from lib.dataset.transforms.affine import Affine
from lib.dataset.transforms.augment import RandomAffine, RandomFlip, Transform, build_transforms

__all__ = ["Affine", "RandomAffine", "RandomFlip", "Transform", "build_transforms"]
