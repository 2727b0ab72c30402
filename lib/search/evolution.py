"""Evolutionary search below a limit (paper, section 3.3): logic over genes, nothing else.

    search = Search(space, costs, score, {"gmacs": 0.8}, journal, seed=0)
    best(search.evolve(Evolution(generations=10, population=20)))

Generation 0 is drawn at random; each further one descends from the best so far, half by mutation
and half by crossover, and children grow until the limits leave nothing to add: accuracy seldom
falls with size, so the best architectures are found at the limit. No architecture is scored
twice, none above a limit is scored at all. All that is drawn is a function of (seed, generation)
and of earlier scores, so a search that was killed goes the same way again, reading from its
journal what it knows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from lib.utils.journal import Journal

Genes = tuple[int, ...]
TRIES = 500  # draws for one candidate
GROWTHS = DESCENTS = 50  # the same, where each of them looks at many architectures
OVERSAMPLE = 10  # children among which a predictor chooses one


class Space(Protocol):
    """What a search asks of an `ArchManager`; architectures can be compared and hashed."""

    choices: Sequence[Sequence]

    def draw(self, rng: random.Random) -> Genes: ...
    def mutate(self, genes: Genes, probability: float, rng: random.Random) -> Genes: ...
    def crossover(self, a: Genes, b: Genes, rng: random.Random) -> Genes: ...
    def decode(self, genes: Genes) -> Any: ...
    def encode(self, arch: Any) -> Genes: ...


class Candidate(NamedTuple):
    """An architecture that was looked at."""

    arch: Any
    genes: Genes
    costs: dict[str, float]
    score: float  # the more, the better
    generation: int


Draw = Callable[[random.Random], Genes]
# candidates so far -> the expected score of genes; None while it cannot be relied on
Predictor = Callable[[Sequence[Candidate]], Callable[[Genes], float] | None]


@dataclass(frozen=True)
class Evolution:
    """The settings of an evolutionary search."""

    generations: int = 10  # the first, random one included
    population: int = 20  # scored in each generation
    parents: int = 5  # the best so far
    mutation: float = 0.1  # probability of each gene

    def __post_init__(self) -> None:
        for name in ("generations", "population", "parents"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; at least 1")
        if not 0 < self.mutation <= 1:
            raise ValueError(f"mutation is {self.mutation}; a probability above 0")


@dataclass
class Search:
    """A space, what its architectures cost and score, and the limits on the costs.

    `costs(arch)` is cheap and called often; `score(arch)` is dear and asked once, through the
    journal. Every key of `limits` is one of the costs.
    """

    space: Space
    costs: Callable[[Any], Mapping[str, float]]
    score: Callable[[Any], float]
    limits: Mapping[str, float]
    journal: Journal
    seed: int = 0
    tell: Callable[[Candidate], object] = lambda candidate: None  # called for each, in order
    _known: dict[Hashable, dict[str, float]] = field(default_factory=dict)  # costs

    def __post_init__(self) -> None:
        for name, limit in self.limits.items():
            if not limit > 0:
                raise ValueError(f"the limit on {name} is {limit:g}; it must be above 0")

    def evolve(self, settings: Evolution, predictor: Predictor | None = None) -> list[Candidate]:
        """All candidates in the order of scoring; fewer than asked where the space has no more.

        With a predictor that can be relied on, a child is the most promising of OVERSAMPLE.
        """
        found = self.draw_random(settings.population)
        for generation in range(1, settings.generations):
            rng = random.Random(f"{self.seed}/{generation}")
            parents = ranked(found)[: settings.parents]
            predict = predictor(found) if predictor else None
            seen = {candidate.arch for candidate in found}
            born: list[Genes] = []
            half = settings.population // 2
            for draw, count in (
                (self._mutation(parents, settings.mutation), half),
                (self._crossover(parents), settings.population - half),
            ):
                sources = [(self._grown(draw), GROWTHS), (draw, TRIES)]
                if predict:
                    many = self._propose(sources, rng, OVERSAMPLE * count, seen)
                    born += sorted(many, key=predict, reverse=True)[:count]
                else:
                    born += self._propose(sources, rng, count, seen)
            missing = settings.population - len(born)
            born += self._propose(self._anywhere(), rng, missing, seen)
            found += [self._scored(genes, generation) for genes in born]
        return found

    def draw_random(self, count: int) -> list[Candidate]:
        """`count` different, uniformly drawn candidates."""
        rng = random.Random(f"{self.seed}/0")
        born = self._propose(self._anywhere(), rng, count, set())
        return [self._scored(genes, 0) for genes in born]

    def _anywhere(self) -> list[tuple[Draw, int]]:
        """The whole space; where the limits leave little of it, downhill from there."""
        return [(self.space.draw, TRIES), (self._descend, DESCENTS)]

    def _propose(
        self,
        sources: Sequence[tuple[Draw, int]],
        rng: random.Random,
        count: int,
        seen: set[Hashable],
    ) -> list[Genes]:
        """Up to `count` new ones below the limits, which join `seen`.

        sources: how to draw, and how often for one; the next where one brings nothing new.
        """
        born: list[Genes] = []
        while len(born) < count:
            drawn = (self._within(draw, rng, seen, tries) for draw, tries in sources)
            genes = next((genes for genes in drawn if genes is not None), None)
            if genes is None:
                break
            born.append(genes)
            seen.add(self.space.decode(genes))
        return born

    def _within(
        self, draw: Draw, rng: random.Random, seen: set[Hashable], tries: int
    ) -> Genes | None:
        """One below the limits that was not seen yet, if so many tries bring it."""
        for _ in range(tries):
            arch = self.space.decode(draw(rng))
            if arch not in seen and self._excess(arch) <= 1:
                return self.space.encode(arch)  # one spelling for each
        return None

    def _descend(self, rng: random.Random) -> Genes:
        """From anywhere, one gene after the other to its cheapest option until below the limits.

        ValueError naming the smallest cost when all of them are not enough.
        """
        genes = self.space.draw(rng)
        for i in rng.sample(range(len(genes)), len(genes)):
            if self._excess(self.space.decode(genes)) <= 1:
                return genes
            options = self._options(genes, i)
            genes = min(options, key=lambda option: self._excess(self.space.decode(option)))
        costs = self._cost(self.space.decode(genes))
        excesses = [
            f"the limit on {name} is {limit:g}, the smallest found {costs[name]:.4g}"
            for name, limit in self.limits.items()
            if costs[name] > limit
        ]
        if excesses:
            raise ValueError(f"no architecture is small enough: {', '.join(excesses)}")
        return genes

    def _grown(self, draw: Draw) -> Draw:
        """What is drawn, one gene after the other at its dearest option below the limits.

        Where no option of a gene is, it is at its cheapest.
        """

        def grow(rng: random.Random) -> Genes:
            genes = draw(rng)
            for i in rng.sample(range(len(genes)), len(genes)):
                options = self._options(genes, i)
                excesses = [self._excess(self.space.decode(option)) for option in options]
                within = [excess if excess <= 1 else -excess for excess in excesses]
                genes = options[within.index(max(within))]
            return genes

        return grow

    def _options(self, genes: Genes, i: int) -> list[Genes]:
        """`genes` with each of the options of gene `i`."""
        return [(*genes[:i], k, *genes[i + 1 :]) for k in range(len(self.space.choices[i]))]

    def _mutation(self, parents: Sequence[Candidate], probability: float) -> Draw:
        return lambda rng: self.space.mutate(rng.choice(parents).genes, probability, rng)

    def _crossover(self, parents: Sequence[Candidate]) -> Draw:
        return lambda rng: self.space.crossover(
            rng.choice(parents).genes, rng.choice(parents).genes, rng
        )

    def _excess(self, arch: Hashable) -> float:
        """The largest cost as a share of its limit; 0 without limits."""
        costs = self._cost(arch)
        return max((costs[name] / limit for name, limit in self.limits.items()), default=0.0)

    def _cost(self, arch: Hashable) -> dict[str, float]:
        if arch not in self._known:
            self._known[arch] = dict(self.costs(arch))
        return self._known[arch]

    def _scored(self, genes: Genes, generation: int) -> Candidate:
        """From the journal, or scored now and written there."""
        arch = self.space.decode(genes)
        entry = self.journal.entries.get(genes)
        if entry is None:
            entry = self.journal.add(genes, score=float(self.score(arch)), costs=self._cost(arch))
        candidate = Candidate(arch, genes, self._cost(arch), entry["score"], generation)
        self.tell(candidate)
        return candidate


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The best first; of equal ones the cheaper, and then the one found first."""
    return sorted(candidates, key=lambda one: (-one.score, tuple(one.costs.values())))


def best(candidates: Sequence[Candidate]) -> Candidate:
    return ranked(candidates)[0]


def pareto_front(candidates: Sequence[Candidate], cost: str) -> list[Candidate]:
    """Those that no other beats in both `cost` and score, from cheap to dear."""
    front: list[Candidate] = []
    for one in sorted(candidates, key=lambda one: (one.costs[cost], -one.score)):
        if not front or one.score > front[-1].score:
            front.append(one)
    return front
