"""Accuracy of the sub-networks of a trained supernet, without fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from lib.core.evaluate import average_precision
from lib.core.inference import InferenceSettings
from lib.core.pipeline import LoaderSettings
from lib.dataset.build import EvaluationSet
from lib.models.arch import ArchSpec


@dataclass(frozen=True)
class SubnetAccuracy:
    """arch -> AP, 0 to 1, of the extracted and adjusted sub-network at its resolution."""

    extract: Callable[[ArchSpec], nn.Module]
    adjust: Callable[[Any, int], object]  # network, size: recalibration or refitting, in place
    held_out: EvaluationSet  # to score on
    settings: InferenceSettings
    loading: LoaderSettings

    def __call__(self, arch: ArchSpec) -> float:
        network = self.extract(arch)
        self.adjust(network, arch.img_size)
        settings = replace(self.settings, input_size=arch.img_size)
        return average_precision(settings, network, self.held_out, self.loading)
