"""Accuracy of an architecture from its genes, and how far that can be relied on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from lib.search.evolution import Candidate, Genes

logger = logging.getLogger(__name__)

MIN_CORRELATION = 0.6  # Spearman's, leaving one out; below, a predictor is not asked


class Ridge(NamedTuple):
    """Least squares on one-hot genes with a penalty: score = mean + sum over genes of a value."""

    values: list[np.ndarray]  # one per gene: what each of its options adds
    mean: float
    correlation: float  # Spearman's, of each score with what the others predict of it

    @classmethod
    def fit(
        cls, options: Sequence[int], genes: Sequence[Genes], scores: Sequence[float], penalty: float
    ) -> Ridge:
        """options: how many each gene has. Leaving one out is exact: residual / (1 - leverage)."""
        x = np.stack([one_hot(options, one) for one in genes])  # (N, D)
        y = np.asarray(scores, dtype=float)
        x_mean, mean = x.mean(axis=0), y.mean()
        centered = x - x_mean
        solve = np.linalg.solve(
            centered.T @ centered + penalty * np.eye(x.shape[1]), centered.T
        )  # (D, N)
        weights = solve @ (y - mean)
        hat = centered @ solve + 1 / len(y)  # (N, N): scores -> fitted scores
        fitted = centered @ weights + mean
        left_out = y - (y - fitted) / (1 - np.diag(hat)).clip(min=1e-9)
        spread = np.ptp(y) > 0 and np.ptp(left_out) > 0
        correlation = float(spearmanr(y, left_out).statistic) if spread else 0.0
        values = np.split(weights, np.cumsum(options)[:-1])
        return cls(values, float(mean - weights @ x_mean), correlation)

    def __call__(self, genes: Genes) -> float:
        return self.mean + sum(float(own[k]) for own, k in zip(self.values, genes, strict=True))


def one_hot(options: Sequence[int], genes: Genes) -> np.ndarray:
    """(sum of options,): a one for each gene's choice."""
    row = np.zeros(sum(options))
    row[np.cumsum([0, *options[:-1]]) + np.asarray(genes)] = 1
    return row


def ridge_predictor(
    options: Sequence[int], penalty: float = 1.0, least: float = MIN_CORRELATION
) -> Callable[[Sequence[Candidate]], Ridge | None]:
    """For `Search.evolve`: a fit to the candidates so far, when its rank correlation is shown."""

    def predictor(found: Sequence[Candidate]) -> Ridge | None:
        ridge = Ridge.fit(options, [c.genes for c in found], [c.score for c in found], penalty)
        trusted = ridge.correlation > least
        logger.info(
            "predictor: rank correlation %.2f over %d candidates, leaving one out; %s (above %.2f)",
            *(ridge.correlation, len(found), "used" if trusted else "not used", least),
        )
        return ridge if trusted else None

    return predictor
