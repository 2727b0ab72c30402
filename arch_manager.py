"""The search space: sample, change and compare architectures (paper, section 4).

    manager = ArchManager.from_config(cfg)
    manager.sample(step)              # same step, same architecture: every rank, every resume
    manager.fixed_sample(448, 0.5)    # every width at half of the supernet's

`ArchManager.dimensions` is the one list of choices: {name: options}, the names being those of
`ArchSpec.numbers` ("img_size", "stages.0.channel", "stages.0.blocks.0.kernel", ...). Sampling,
mutation, crossover, latency tables, and the journal and candidates.csv of a search derive from it.

The genes of an architecture are one option of each dimension. A stage of depth 3 has the genes of
all its blocks, too; those of the blocks that it skips have no effect and are the largest options.

A further dimension touches at most six files; depth, for example:
    lib/config/default.py               SUPERNET.DEPTHS, the user's options
    lib/config/ranges.py                what SUPERNET.DEPTHS accepts
    lib/models/arch.py                  its name in `ArchSpec.numbers` and `with_numbers`
    arch_manager.py                     a field, some lines in `dimensions`, one in `from_config`
    lib/models/pose_supermobilenet.py   how the supernet runs it
    lib/models/subnet.py                how it is extracted, unless as a leading slice
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cached_property

from yacs.config import CfgNode

from lib.models.arch import ArchSpec, largest_arch, make_divisible
from lib.models.pose_supermobilenet import check_fits

Genes = dict[str, int]  # the value of each dimension, by name


@dataclass(frozen=True)
class ArchManager:
    """Choices up to one largest architecture; the lists are the user's (SUPERNET.*)."""

    largest: ArchSpec
    resolutions: tuple[int, ...]
    ratios: tuple[float, ...]  # of each width: stem, stages, deconv levels
    expansions: tuple[int, ...] = (6,)
    kernels: tuple[int, ...] = (7,)
    depths: tuple[float, ...] = (1.0,)  # of each stage: shares of its blocks
    seed: int = 0
    smallest: ArchSpec | None = None  # no width is below its; None: the ratios alone decide

    def __post_init__(self) -> None:
        for name in ("resolutions", "ratios", "expansions", "kernels", "depths"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"SUPERNET.{name.upper()} is {list(values)}; list distinct values")
        if any(size < 64 or size % 64 for size in self.resolutions):
            raise ValueError(
                f"SUPERNET.RESOLUTIONS is {list(self.resolutions)}; multiples of 64 are possible"
            )
        for name in ("ratios", "depths"):
            values = getattr(self, name)
            if not all(0 < ratio <= 1 for ratio in values):
                raise ValueError(f"SUPERNET.{name.upper()} is {list(values)}; 0 < ratio <= 1")
        blocks = [block for stage in self.largest.stages for block in stage.blocks]
        most = min(expansion for expansion, _ in blocks)
        if max(self.expansions) > most or min(self.expansions) < 1:
            raise ValueError(f"SUPERNET.EXPANSIONS is {list(self.expansions)}; 1 to {most}")
        possible = {kernel for _, kernel in blocks} | {5, 3}
        if not set(self.kernels) <= possible:
            raise ValueError(
                f"SUPERNET.KERNELS is {list(self.kernels)}; possible: {sorted(possible)}"
            )

    @classmethod
    def from_config(cls, cfg: CfgNode, largest: ArchSpec | None = None) -> ArchManager:
        """The space of SUPERNET.* up to `largest` (default: the paper's complete network)."""
        if largest is None:
            largest = largest_arch(cfg.DATASET.INPUT_SIZE, cfg.MODEL.EXTRA.NUM_DECONV_FILTERS)
        return cls(
            largest,
            resolutions=tuple(cfg.SUPERNET.RESOLUTIONS),
            ratios=tuple(cfg.SUPERNET.RATIOS),
            expansions=tuple(cfg.SUPERNET.EXPANSIONS),
            kernels=tuple(cfg.SUPERNET.KERNELS),
            depths=tuple(cfg.SUPERNET.DEPTHS),
            seed=cfg.SEED,
            smallest=_read_smallest(cfg.SUPERNET.SMALLEST, largest),
        )

    @cached_property
    def dimensions(self) -> dict[str, tuple[int, ...]]:
        """{name: options}, in the order of sampling.

        A width has one option per ratio, all equally likely, even where two round to one width; so
        has a depth, which is at least one block. At full depth alone, it is no dimension.
        """
        options = {"img_size": self.resolutions}
        least = self.smallest.widths if self.smallest else {}
        for name, width in self.largest.widths.items():
            widths = (make_divisible(width * ratio) for ratio in self.ratios)
            options[name] = tuple(max(least.get(name, 0), width) for width in widths)
        for name in self.largest.numbers:
            if name.endswith(".expansion"):
                options[name] = self.expansions
            elif name.endswith(".kernel"):
                options[name] = self.kernels
        for name, blocks in self.largest.numbers.items():
            if name.endswith(".depth") and self.depths != (1.0,):
                options[name] = tuple(max(1, int(blocks * share + 0.5)) for share in self.depths)
        return options

    @cached_property
    def choices(self) -> tuple[str, ...]:
        """Names of the dimensions with more than one option."""
        return tuple(name for name, options in self.dimensions.items() if len(options) > 1)

    def sample(self, step: int) -> ArchSpec:
        """A uniform sample, which is a function of (seed, step) alone."""
        return self.uniform(random.Random(f"{self.seed}/{step}"))

    def sandwich(self, step: int, count: int) -> list[ArchSpec]:
        """The largest, the smallest and `count` sampled ones, all at the first one's resolution.

        The smallest has full expansions and kernels.
        """
        rng = random.Random(f"{self.seed}/{step}")
        sampled = [self.uniform(rng) for _ in range(max(1, count))]
        size = sampled[0].img_size
        largest, narrow = (self.fixed_sample(size, end(self.ratios)) for end in (max, min))
        depths = [name for name in self.dimensions if name.endswith(".depth")]
        smallest = narrow.with_numbers({name: min(self.dimensions[name]) for name in depths})
        return [largest, smallest, *(replace(arch, img_size=size) for arch in sampled[:count])]

    def fixed_sample(self, reso: int, ratio: float) -> ArchSpec:
        """All widths at `ratio`, full expansion, kernel and depth."""
        _expect("resolution", reso, self.resolutions)
        _expect("ratio", ratio, self.ratios)
        genes = {name: max(options) for name, options in self.dimensions.items()}
        genes["img_size"] = reso
        for name in self.largest.widths:
            genes[name] = self.dimensions[name][self.ratios.index(ratio)]
        return self.decode(genes)

    def uniform(self, rng: random.Random) -> ArchSpec:
        """Every dimension uniform and independent."""
        return self.decode({name: _pick(rng, options) for name, options in self.dimensions.items()})

    def mutate(self, arch: ArchSpec, probability: float, rng: random.Random) -> ArchSpec:
        """Each dimension is sampled again with `probability`."""
        changes = {
            name: _pick(rng, options)
            for name, options in self.dimensions.items()
            if rng.random() < probability
        }
        return self.decode({**self.encode(arch), **changes})

    def crossover(self, a: ArchSpec, b: ArchSpec, rng: random.Random) -> ArchSpec:
        """Each dimension from one parent or the other."""
        parents = (self.encode(a), self.encode(b))
        return self.decode({name: rng.choice(parents)[name] for name in self.dimensions})

    def shuffled(self, rng: random.Random) -> list[str]:
        """Names of the dimensions in random order."""
        return rng.sample(list(self.dimensions), len(self.dimensions))

    def variants(self, arch: ArchSpec, name: str) -> list[ArchSpec]:
        """The architecture with each option of the dimension `name`."""
        genes = self.encode(arch)
        return [self.decode({**genes, name: option}) for option in self.dimensions[name]]

    def encode(self, arch: ArchSpec) -> Genes:
        """The genes that decode to `arch`; ValueError names what the space does not have."""
        numbers = arch.numbers
        full = {name: (n,) for name, n in self.largest.numbers.items() if name.endswith(".depth")}
        genes = {name: numbers.get(name, max(options)) for name, options in self.dimensions.items()}
        for name, options in (full | self.dimensions).items():
            _expect(name, numbers.get(name, max(options)), options)
        return genes

    def key(self, arch: ArchSpec) -> tuple[str, ...]:
        """Its choices, as a journal holds them: ("img_size=256", "input_channel=16", ...)"""
        genes = self.encode(arch)
        return tuple(f"{name}={genes[name]}" for name in self.choices)

    def decode(self, genes: Genes) -> ArchSpec:
        """The architecture of these genes; inverse of `encode`."""
        return self.largest.with_numbers(genes)


def _read_smallest(path: str, largest: ArchSpec) -> ArchSpec | None:
    """The architecture of SUPERNET.SMALLEST; ValueError if `largest` cannot hold it."""
    if not path:
        return None
    try:
        smallest = ArchSpec.from_json(path)
        check_fits(smallest, largest)
    except ValueError as error:
        raise ValueError(f"SUPERNET.SMALLEST {path}: {error}") from None
    return smallest


def _pick(rng: random.Random, options: tuple[int, ...]) -> int:
    return options[rng.randrange(len(options))]


def _expect(name: str, value: float, options: tuple[float, ...]) -> None:
    if value not in options:
        raise ValueError(f"{name} is {value}; this space has {sorted(set(options))}")
