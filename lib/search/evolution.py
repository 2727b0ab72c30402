"""Evolutionary search below limits on the cost of an architecture (paper, section 4).

    search = Search(space, costs, scores, {"gmacs": 0.8}, journal, seed=0)
    best(search.evolve(Evolution(generations=10, population=20)))

Generation 0 is sampled at random. Each later generation descends from the best candidates so far,
half of it by mutation and half by crossover. A child then grows: one dimension after the other, in
random order, takes its most expensive option within the limits. Accuracy seldom falls with size, so
the best architectures lie at the limit. A child of search-XS below a limit of 1 GMACs:

                                          GMACs of its options          GMACs of the child
    parent                                                              0.883
    mutation   stages.1.channel  32 -> 16                               0.768
    growth     stages.2.channel  48 -> 72   1.016 [0.875] 0.768 0.695   0.875
               img_size          stays 256  3.501 ... 1.368 [0.875]     0.875
               deconv.0          16 -> 64   [0.924] 0.908 0.892 0.875   0.924
               input_channel     16 -> 24   [0.978] 0.978 0.924 0.883   0.978
               no other dimension has a larger option that fits         0.978

No architecture is scored twice, and none above a limit is scored. All sampling is a function of
(seed, generation) and of earlier scores, so a killed search takes the same way again and reads
the scores it already has from its journal.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from lib.utils.journal import Journal

Arch = Any  # hashable: an ArchSpec
Sampler = Callable[[random.Random], Arch]
TRIES = 500  # samples for one candidate
# The same for samplers that compare many architectures for each sample.
GROWTH_TRIES = DESCENT_TRIES = 50


class Space(Protocol):
    """The part of an `ArchManager` that a search uses."""

    def uniform(self, rng: random.Random) -> Arch: ...
    def mutate(self, arch: Arch, probability: float, rng: random.Random) -> Arch: ...
    def crossover(self, a: Arch, b: Arch, rng: random.Random) -> Arch: ...
    def shuffled(self, rng: random.Random) -> list[str]: ...
    def variants(self, arch: Arch, name: str) -> list[Arch]: ...
    def key(self, arch: Arch) -> tuple[str, ...]: ...


class Candidate(NamedTuple):
    """A scored architecture."""

    arch: Arch
    costs: Mapping[str, float]
    score: float  # higher is better
    generation: int


@dataclass(frozen=True)
class Evolution:
    """The settings of an evolutionary search."""

    generations: int = 10  # including the first, random one
    population: int = 20  # candidates of each generation
    parents: int = 5  # the best so far
    mutation: float = 0.1  # probability of each dimension

    def __post_init__(self) -> None:
        for name in ("generations", "population", "parents"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; at least 1")
        if not 0 < self.mutation <= 1:
            raise ValueError(f"mutation is {self.mutation}; a probability above 0")


@dataclass
class Search:
    """A space, the costs and scores of its architectures, and the limits on the costs.

    `costs(arch)` is cheap and called often. `scores(archs)`, in order, is expensive. It is
    asked once for each candidate, through the journal, and reads a generation at a time, so that
    processes can share it. Every key of `limits` is one of the costs.
    """

    space: Space
    costs: Callable[[Arch], Mapping[str, float]]
    scores: Callable[[Sequence[Arch]], Iterable[float]]
    limits: Mapping[str, float]
    journal: Journal
    seed: int = 0
    on_candidate: Callable[[Candidate], object] = lambda candidate: None  # called in order
    _known_costs: dict[Arch, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, limit in self.limits.items():
            if not limit > 0:
                raise ValueError(f"the limit on {name} is {limit:g}; it must be above 0")

    def evolve(self, settings: Evolution) -> list[Candidate]:
        """All candidates in the order of scoring; fewer than asked if the space has no more."""
        candidates = self.sample_random(settings.population)
        for generation in range(1, settings.generations):
            rng = random.Random(f"{self.seed}/{generation}")
            parents = [one.arch for one in ranked(candidates)[: settings.parents]]
            seen = {one.arch for one in candidates}
            children = self._children(parents, settings, rng, seen)
            candidates += self._scored(children, generation)
        return candidates

    def sample_random(self, count: int) -> list[Candidate]:
        """`count` different candidates, sampled uniformly below the limits."""
        rng = random.Random(f"{self.seed}/0")
        return list(self._scored(self._new(self._anywhere(), rng, count, set()), 0))

    def _children(
        self, parents: Sequence[Arch], settings: Evolution, rng: random.Random, seen: set[Arch]
    ) -> list[Arch]:
        """A generation: half of it mutants, half offspring of two parents, all grown."""

        def mutant(rng: random.Random) -> Arch:
            return self.space.mutate(rng.choice(parents), settings.mutation, rng)

        def offspring(rng: random.Random) -> Arch:
            return self.space.crossover(rng.choice(parents), rng.choice(parents), rng)

        half = settings.population // 2
        children = self._new(self._grown(mutant), rng, half, seen)
        children += self._new(self._grown(offspring), rng, settings.population - half, seen)
        # If the parents have too few new children, random architectures complete the generation.
        missing = settings.population - len(children)
        return children + self._new(self._anywhere(), rng, missing, seen)

    def _anywhere(self) -> list[tuple[Sampler, int]]:
        """The whole space; if the limits leave little of it, descend from a random place."""
        return [(self.space.uniform, TRIES), (self._descend, DESCENT_TRIES)]

    def _grown(self, sample: Sampler) -> list[tuple[Sampler, int]]:
        """Children at the limit; if all of these are known, children as they are."""
        return [(lambda rng: self._grow(sample(rng), rng), GROWTH_TRIES), (sample, TRIES)]

    def _new(
        self,
        samplers: Sequence[tuple[Sampler, int]],
        rng: random.Random,
        count: int,
        seen: set[Arch],
    ) -> list[Arch]:
        """Up to `count` architectures below the limits that are not in `seen`; they join it.

        samplers: each with its number of tries for one architecture; a later one is used where
        those before it find nothing new.
        """
        archs: list[Arch] = []
        for _ in range(count):
            samples = (sample(rng) for sample, tries in samplers for _ in range(tries))
            new = (arch for arch in samples if arch not in seen and self._excess(arch) <= 1)
            arch = next(new, None)
            if arch is None:
                break
            archs.append(arch)
            seen.add(arch)
        return archs

    def _descend(self, rng: random.Random) -> Arch:
        """From anywhere, one dimension after the other to its cheapest option, until within limits.

        ValueError naming the smallest cost if that is still above a limit.
        """
        arch = self.space.uniform(rng)
        for name in self.space.shuffled(rng):
            if self._excess(arch) <= 1:
                return arch
            arch = min(self.space.variants(arch, name), key=self._excess)
        excesses = [
            f"the limit on {name} is {limit:g}, the smallest found {self._cost(arch)[name]:.4g}"
            for name, limit in self.limits.items()
            if self._cost(arch)[name] > limit
        ]
        if excesses:
            raise ValueError(f"no architecture is small enough: {', '.join(excesses)}")
        return arch

    def _grow(self, arch: Arch, rng: random.Random) -> Arch:
        """One dimension after the other to its most expensive option within the limits.

        A child may start above a limit. Then no option of a dimension may fit; it takes its
        cheapest one, and the next dimension continues from there.
        """
        for name in self.space.shuffled(rng):
            variants = self.space.variants(arch, name)
            excesses = [self._excess(variant) for variant in variants]
            # Above the limit, the sign makes the cheapest the largest, and any that fits larger.
            rank = [excess if excess <= 1 else -excess for excess in excesses]
            arch = variants[rank.index(max(rank))]
        return arch

    def _excess(self, arch: Arch) -> float:
        """The largest cost as a share of its limit: above 1 is too expensive; 0 without limits."""
        costs = self._cost(arch)
        return max((costs[name] / limit for name, limit in self.limits.items()), default=0.0)

    def _cost(self, arch: Arch) -> Mapping[str, float]:
        if arch not in self._known_costs:
            self._known_costs[arch] = dict(self.costs(arch))
        return self._known_costs[arch]

    def _scored(self, archs: Sequence[Arch], generation: int) -> Iterator[Candidate]:
        """With the scores from the journal, or scored now and written there."""
        known = self.journal.entries
        new = [arch for arch in archs if self.space.key(arch) not in known]
        scores = iter(self.scores(new))
        for arch in archs:
            entry = known.get(key := self.space.key(arch))
            if entry is None:
                entry = self.journal.add(key, score=float(next(scores)), costs=self._cost(arch))
            candidate = Candidate(arch, self._cost(arch), entry["score"], generation)
            self.on_candidate(candidate)
            yield candidate


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Best first; among equal scores the cheapest, then the earliest."""
    return sorted(candidates, key=lambda one: (-one.score, tuple(one.costs.values())))


def best(candidates: Sequence[Candidate]) -> Candidate:
    return ranked(candidates)[0]


def pareto_front(candidates: Sequence[Candidate], cost: str) -> list[Candidate]:
    """Candidates that no other beats in both `cost` and score, by rising cost."""
    front: list[Candidate] = []
    for one in sorted(candidates, key=lambda one: (one.costs[cost], -one.score)):
        if not front or one.score > front[-1].score:
            front.append(one)
    return front
