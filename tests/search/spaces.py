"""A space of plain tuples, whose costs and scores are known."""

from __future__ import annotations

from typing import NamedTuple


class Line(NamedTuple):
    """A space of `length` numbers from 0 to `options` - 1; an architecture is the tuple of them."""

    length: int = 8
    options: int = 5

    def uniform(self, rng):
        return tuple(rng.randrange(self.options) for _ in range(self.length))

    def mutate(self, arch, probability, rng):
        return tuple(rng.randrange(self.options) if rng.random() < probability else n for n in arch)

    def crossover(self, a, b, rng):
        return tuple(rng.choice(pair) for pair in zip(a, b, strict=True))

    def shuffled(self, rng):
        return rng.sample(list(map(str, range(self.length))), self.length)

    def variants(self, arch, name):
        i = int(name)
        return [(*arch[:i], option, *arch[i + 1 :]) for option in range(self.options)]

    def key(self, arch):
        return tuple(f"{i}={number}" for i, number in enumerate(arch))


def separable(arch) -> float:
    """Each number adds to the score; the best is the largest of all, which costs the most."""
    return sum((i + 1) * number for i, number in enumerate(arch)) / 100


def total(arch) -> dict[str, float]:
    return {"gmacs": float(sum(arch))}
