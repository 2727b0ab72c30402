"""The search space: draw, change and compare architectures (paper, section 3.3 and 4.1).

    manager = ArchManager.from_config(cfg)
    manager.sample(step)              # same step, same architecture: every rank, every resume
    manager.fixed_sample(448, 0.5)    # every width at half of the supernet's

An architecture is written as genes, one small index per choice: resolution, stem width, stage
widths, deconv widths, then expansion and kernel of every block.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from yacs.config import CfgNode

from lib.models.arch import ArchSpec, StageSpec, largest_arch, make_divisible

Genes = tuple[int, ...]


@dataclass(frozen=True)
class ArchManager:
    """Choices below one largest architecture; every list is a user's to set (SUPERNET.*)."""

    largest: ArchSpec
    resolutions: tuple[int, ...]
    ratios: tuple[float, ...]  # of each width: stem, stages, deconv levels
    expansions: tuple[int, ...] = (6,)
    kernels: tuple[int, ...] = (7,)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("resolutions", "ratios", "expansions", "kernels"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"SUPERNET.{name.upper()} is {list(values)}; list distinct values")
        if any(size < 64 or size % 64 for size in self.resolutions):
            raise ValueError(
                f"SUPERNET.RESOLUTIONS is {list(self.resolutions)}; multiples of 64 are possible"
            )
        if not all(0 < ratio <= 1 for ratio in self.ratios):
            raise ValueError(f"SUPERNET.RATIOS is {list(self.ratios)}; 0 < ratio <= 1")
        blocks = [block for stage in self.largest.stages for block in stage.blocks]
        most = min(expansion for expansion, _ in blocks)
        if max(self.expansions) > most or min(self.expansions) < 1:
            raise ValueError(f"SUPERNET.EXPANSIONS is {list(self.expansions)}; 1 to {most}")
        full = {kernel for _, kernel in blocks}
        if not set(self.kernels) <= full | {5, 3}:
            raise ValueError(
                f"SUPERNET.KERNELS is {list(self.kernels)}; possible: {sorted(full | {3, 5})}"
            )

    @classmethod
    def from_config(cls, cfg: CfgNode, largest: ArchSpec | None = None) -> ArchManager:
        """The space of SUPERNET.* below `largest` (default: the paper's complete network)."""
        space = cfg.SUPERNET
        return cls(
            largest or largest_arch(cfg.DATASET.INPUT_SIZE, cfg.MODEL.EXTRA.NUM_DECONV_FILTERS),
            *(tuple(space.RESOLUTIONS), tuple(space.RATIOS)),
            *(tuple(space.EXPANSIONS), tuple(space.KERNELS), cfg.SEED),
        )

    @property
    def choices(self) -> tuple[Sequence, ...]:
        """What each gene chooses from, in the order of the genes."""
        widths = 1 + len(self.largest.stages) + len(self.largest.deconv)
        blocks = sum(len(stage.blocks) for stage in self.largest.stages)
        return (
            self.resolutions,
            *(self.ratios,) * widths,
            *(self.expansions, self.kernels) * blocks,
        )

    def sample(self, step: int) -> ArchSpec:
        """Every choice uniform and independent; a function of (seed, step) alone."""
        return self.decode(self.draw(random.Random(f"{self.seed}/{step}")))

    def sandwich(self, step: int, count: int) -> list[ArchSpec]:
        """The largest, the smallest and `count` drawn ones, all at the drawn resolution."""
        rng = random.Random(f"{self.seed}/{step}")
        drawn = [self.decode(self.draw(rng)) for _ in range(max(1, count))]
        size = drawn[0].img_size
        ends = [self.fixed_sample(size, edge(self.ratios)) for edge in (max, min)]
        return [*ends, *(replace(arch, img_size=size) for arch in drawn[:count])]

    def fixed_sample(self, reso: int, ratio: float) -> ArchSpec:
        """All widths at `ratio`, full expansion and kernel."""
        self._expect("resolution", reso, self.resolutions)
        self._expect("ratio", ratio, self.ratios)
        widths = 1 + len(self.largest.stages) + len(self.largest.deconv)
        blocks = sum(len(stage.blocks) for stage in self.largest.stages)
        full = (
            self.expansions.index(max(self.expansions)),
            self.kernels.index(max(self.kernels)),
        )
        genes = (
            self.resolutions.index(reso),
            *(self.ratios.index(ratio),) * widths,
            *full * blocks,
        )
        return self.decode(genes)

    def draw(self, rng: random.Random) -> Genes:
        """Genes, each uniform."""
        return tuple(rng.randrange(len(options)) for options in self.choices)

    def decode(self, genes: Genes) -> ArchSpec:
        """The architecture that `genes` spell."""
        choices = self.choices
        if len(genes) != len(choices):
            raise ValueError(f"{len(genes)} genes, this space has {len(choices)}")
        for i, (gene, options) in enumerate(zip(genes, choices, strict=True)):
            if not 0 <= gene < len(options):
                raise ValueError(f"gene {i} is {gene}; possible: 0 to {len(options) - 1}")
        values = iter(options[gene] for gene, options in zip(genes, choices, strict=True))
        size = next(values)
        stem = make_divisible(self.largest.input_channel * next(values))
        channels = [make_divisible(stage.channel * next(values)) for stage in self.largest.stages]
        deconv = tuple(make_divisible(width * next(values)) for width in self.largest.deconv)
        stages = tuple(
            StageSpec(
                channel, stage.stride, tuple((next(values), next(values)) for _ in stage.blocks)
            )
            for channel, stage in zip(channels, self.largest.stages, strict=True)
        )
        return ArchSpec(size, stem, stages, deconv)

    def encode(self, arch: ArchSpec) -> Genes:
        """Genes that decode to `arch`; ValueError names what the space does not have.

        Where two ratios give the same width, the first.
        """

        def width(name: str, own: int, largest: int) -> int:
            possible = [make_divisible(largest * ratio) for ratio in self.ratios]
            self._expect(name, own, possible)
            return possible.index(own)

        if [len(s.blocks) for s in arch.stages] != [len(s.blocks) for s in self.largest.stages]:
            raise ValueError(
                f"depths are {[len(s.blocks) for s in arch.stages]}, "
                f"this space has {[len(s.blocks) for s in self.largest.stages]}"
            )
        self._expect("img_size", arch.img_size, self.resolutions)
        genes = [self.resolutions.index(arch.img_size)]
        genes.append(width("input_channel", arch.input_channel, self.largest.input_channel))
        for i, (own, most) in enumerate(zip(arch.stages, self.largest.stages, strict=True)):
            genes.append(width(f"stage {i}, channel", own.channel, most.channel))
        for i, (own, most) in enumerate(zip(arch.deconv, self.largest.deconv, strict=True)):
            genes.append(width(f"deconv level {i}", own, most))
        for stage in arch.stages:
            for expansion, kernel in stage.blocks:
                self._expect("expansion", expansion, self.expansions)
                self._expect("kernel", kernel, self.kernels)
                genes += [self.expansions.index(expansion), self.kernels.index(kernel)]
        return tuple(genes)

    def mutate(self, genes: Genes, probability: float, rng: random.Random) -> Genes:
        """Each gene is drawn anew with `probability`."""
        return tuple(
            rng.randrange(len(options)) if rng.random() < probability else gene
            for gene, options in zip(genes, self.choices, strict=True)
        )

    def crossover(self, a: Genes, b: Genes, rng: random.Random) -> Genes:
        """Each gene from one parent or the other."""
        return tuple(rng.choice(pair) for pair in zip(a, b, strict=True))

    def distance(self, a: ArchSpec, b: ArchSpec) -> float:
        """The share of choices in which two architectures differ, 0 to 1, among real choices."""
        real = [len(options) > 1 for options in self.choices]
        differ = [x != y for x, y in zip(self.encode(a), self.encode(b), strict=True)]
        return sum(d for d, r in zip(differ, real, strict=True) if r) / max(1, sum(real))

    @staticmethod
    def _expect(name: str, value: float, possible: Sequence) -> None:
        if value not in possible:
            raise ValueError(f"{name} is {value}; this space has {sorted(set(possible))}")
