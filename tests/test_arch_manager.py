"""The search space: architectures are sampled, written as genes and changed."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from functools import cached_property

import pytest

from arch_manager import ArchManager
from lib.config import load_config
from lib.models.arch import ArchSpec, largest_arch, make_divisible, uniform_arch
from lib.models.pieces import pieces_of, space_pieces
from lib.models.pose_supermobilenet import check_fits
from tests.helpers import ROOT, YAMLS

PAPER = largest_arch(512)
XS = ArchManager(PAPER, (512, 448, 384, 320, 256), (1.0, 0.75, 0.5, 0.25))
LMS = ArchManager(PAPER, (512, 448), (1.0, 0.75, 0.5))
DEEP = ArchManager(
    PAPER, (256, 512), (1.0, 0.5), expansions=(6, 4), kernels=(7, 5), depths=(1.0, 0.5, 0.1)
)
MIXED = ArchManager(PAPER, (256, 512), (1.0, 0.5), expansions=(6, 4), kernels=(7, 5, 3), seed=3)
ALL_SPACES = {"XS": XS, "LMS": LMS, "mixed": MIXED, "deep": DEEP}
SPACES = pytest.mark.parametrize("space", ALL_SPACES.values(), ids=ALL_SPACES)
PUBLISHED = sorted(path.stem for path in (ROOT / "mobile_configs").glob("*.json"))


def published(name: str) -> ArchSpec:
    return ArchSpec.from_json(ROOT / "mobile_configs" / f"{name}.json")


@SPACES
def test_a_step_is_one_architecture_whoever_asks(space):
    again = replace(space)
    assert [space.sample(step) for step in range(20)] == [again.sample(s) for s in range(20)]
    assert space.sample(7) != space.sample(8)
    other = replace(space, seed=space.seed + 1)
    assert [space.sample(s) for s in range(5)] != [other.sample(s) for s in range(5)]


@SPACES
def test_every_sampled_architecture_survives_its_genes(space):
    for step in range(200):
        arch = space.sample(step)
        genes = space.encode(arch)
        assert space.decode(genes) == arch
        assert list(genes) == list(space.dimensions)
        assert all(genes[name] in options for name, options in space.dimensions.items())
        check_fits(arch, space.largest)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_architecture_is_in_its_space(name):
    arch = published(name)
    space = XS if name == "search-XS" else LMS
    assert space.decode(space.encode(arch)) == arch


def test_the_space_of_the_larger_ones_does_not_hold_xs():
    with pytest.raises(ValueError, match=r"img_size is 256; this space has \[448, 512\]"):
        LMS.encode(published("search-XS"))


@SPACES
def test_mutants_and_children_stay_in_the_space(space):
    rng = random.Random(0)
    a, b = space.uniform(rng), space.uniform(rng)
    for _ in range(50):
        child = space.crossover(a, b, rng)
        genes = [space.encode(arch) for arch in (child, a, b)]
        assert all(genes[0][name] in (genes[1][name], genes[2][name]) for name in space.dimensions)
        a, b = child, space.mutate(a, 0.5, rng)
        space.encode(b)


def test_mutation_changes_each_dimension_with_its_probability():
    rng = random.Random(0)
    arch = XS.uniform(rng)
    assert XS.mutate(arch, 0.0, rng) == arch
    before = XS.encode(arch)
    mutants = [XS.encode(XS.mutate(arch, 0.2, rng)) for _ in range(500)]
    changes = sum(before[name] != mutant[name] for mutant in mutants for name in before)
    # A new sample differs in 4 of 5 resolutions and 3 of 4 of each of the 8 widths.
    assert changes / 500 == pytest.approx(0.2 * (4 / 5 + 8 * 3 / 4), rel=0.1)


def test_a_stage_keeps_its_first_blocks():
    assert DEEP.dimensions["stages.0.depth"] == (6, 3, 1)
    assert DEEP.dimensions["stages.3.depth"] == (10, 5, 1)
    arch = DEEP.decode(DEEP.encode(PAPER) | {"stages.1.depth": 4, "stages.1.blocks.3.kernel": 5})
    assert arch.stages[1].blocks == ((6, 7), (6, 7), (6, 7), (6, 5))
    assert [len(stage.blocks) for stage in arch.stages] == [6, 4, 10, 10]
    assert DEEP.fixed_sample(512, 1.0) == PAPER


def test_genes_of_skipped_blocks_have_no_effect():
    """Else a search would score one network many times."""
    genes = DEEP.encode(DEEP.sample(0)) | {"stages.2.depth": 1}
    arch = DEEP.decode(genes)
    assert DEEP.decode(genes | {"stages.2.blocks.1.kernel": 5}) == arch
    assert DEEP.decode(genes | {"stages.2.blocks.1.kernel": 7}) == arch
    assert DEEP.encode(arch)["stages.2.blocks.1.kernel"] == 7
    deeper = DEEP.variants(arch, "stages.2.depth")
    assert [len(variant.stages[2].blocks) for variant in deeper] == [10, 5, 1]


def test_at_full_depth_the_space_is_what_it_was():
    """Same dimensions, same samples: a depth of one option would use random numbers."""
    space = replace(DEEP, depths=(1.0,))
    assert not [name for name in space.dimensions if name.endswith("depth")]
    deep, full = DEEP.sample(5), space.sample(5)
    assert full.widths == deep.widths
    assert [len(stage.blocks) for stage in full.stages] == [6, 8, 10, 10]
    assert [a.blocks[0] for a in full.stages] == [b.blocks[0] for b in deep.stages]


def test_the_smallest_of_a_sandwich_is_the_least_deep():
    largest, smallest, _ = DEEP.sandwich(0, 1)
    depths = [[len(stage.blocks) for stage in arch.stages] for arch in (largest, smallest)]
    assert depths == [[6, 8, 10, 10], [1, 1, 1, 1]]


def test_a_dimension_is_its_name_and_its_options():
    """Sampling, mutation, crossover, growth, journals and tables read `dimensions`."""

    class Finer(ArchManager):
        @cached_property
        def dimensions(self):
            return super().dimensions | {"stages.3.channel": (40, 41, 42)}

    space = Finer(PAPER, (512,), (1.0,))
    assert space.choices == ("stages.3.channel",)
    assert {space.sample(step).stages[3].channel for step in range(50)} == {40, 41, 42}
    arch = space.fixed_sample(512, 1.0)
    variants = space.variants(arch, "stages.3.channel")
    assert [variant.stages[3].channel for variant in variants] == [40, 41, 42]
    assert space.key(space.sample(0))[0].startswith("stages.3.channel=4")


def test_a_journal_names_the_choices():
    arch = published("search-XS")
    assert XS.key(arch)[:3] == ("img_size=256", "input_channel=16", "stages.0.channel=16")
    assert len(XS.key(arch)) == 9
    assert [name.split("=")[0] for name in XS.key(arch)] == list(XS.choices)


def test_a_fixed_sample_has_every_width_at_its_ratio():
    assert XS.fixed_sample(448, 0.5) == uniform_arch(448, 16, (16, 32, 48, 80), (32, 24, 16))
    assert XS.fixed_sample(512, 1.0) == PAPER
    assert MIXED.fixed_sample(256, 1.0).stages[0].blocks[0] == (6, 7)


@SPACES
def test_a_sandwich_holds_largest_and_smallest_at_one_resolution(space):
    for step in range(10):
        largest, smallest, *sampled = space.sandwich(step, 2)
        size = space.sample(step).img_size
        assert {arch.img_size for arch in (largest, smallest, *sampled)} == {size}
        assert largest == space.fixed_sample(size, 1.0)
        assert smallest.deconv == tuple(
            make_divisible(width * min(space.ratios)) for width in space.largest.deconv
        )
        assert sampled[0] == space.sample(step)
        assert len(sampled) == 2
        assert space.sandwich(step, 2) == [largest, smallest, *sampled]
    assert len(space.sandwich(0, 0)) == 2


def test_every_option_of_every_dimension_is_sampled_equally_often():
    samples = [MIXED.encode(MIXED.uniform(random.Random(i))) for i in range(3000)]
    for name, options in MIXED.dimensions.items():
        counts = Counter(genes[name] for genes in samples)
        assert set(counts) == set(options)
        expected = len(samples) / len(options)
        # 5 standard deviations of a binomial count
        spread = 5 * (expected * (1 - 1 / len(options))) ** 0.5
        assert all(abs(count - expected) <= spread for count in counts.values()), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolutions": ()}, r"SUPERNET\.RESOLUTIONS is \[\]; list distinct values"),
        ({"ratios": (0.5, 0.5)}, r"SUPERNET\.RATIOS is \[0\.5, 0\.5\]; list distinct values"),
        ({"resolutions": (500,)}, "multiples of 64 are possible"),
        ({"ratios": (1.5,)}, "0 < ratio <= 1"),
        ({"expansions": (8,)}, r"SUPERNET\.EXPANSIONS is \[8\]; 1 to 6"),
        ({"kernels": (9,)}, r"possible: \[3, 5, 7\]"),
        ({"depths": (1.5,)}, r"SUPERNET\.DEPTHS is \[1\.5\]; 0 < ratio <= 1"),
    ],
)
def test_an_impossible_space_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        replace(XS, **settings)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (uniform_arch(512, 24, (32, 64, 96, 152), (64, 48, 32)), r"stages\.3\.channel is 152"),
        (uniform_arch(512, 24, (32, 64, 96, 160), (64, 48, 40)), r"deconv\.2 is 40"),
        (uniform_arch(512, 20, (32, 64, 96, 160), (64, 48, 32)), r"has \[8, 16, 24\]"),
        (
            uniform_arch(512, 24, (8, 8, 8, 8), (8, 8, 8), depths=(4, 6, 8, 8)),
            r"stages\.0\.depth is 4; this space has \[6\]",
        ),
        (
            uniform_arch(512, 24, (32, 64, 96, 160), (64, 48, 32), block=(6, 5)),
            r"stages\.0\.blocks\.0\.kernel is 5",
        ),
        (
            uniform_arch(512, 24, (32, 64, 96, 160), (64, 48, 32), block=(4, 7)),
            r"stages\.0\.blocks\.0\.expansion is 4",
        ),
    ],
)
def test_an_architecture_of_another_space_is_refused(arch, message):
    with pytest.raises(ValueError, match=message):
        XS.encode(arch)


def test_a_sample_outside_the_space_is_refused():
    with pytest.raises(ValueError, match=r"resolution is 300; this space has \[256, 320"):
        XS.fixed_sample(300, 0.5)
    with pytest.raises(ValueError, match=r"ratio is 0\.6; this space has \[0\.25, 0\.5"):
        XS.fixed_sample(256, 0.6)


@SPACES
def test_a_table_of_a_space_has_every_piece_of_it(space):
    largest = uniform_arch(512, 24, (32, 64, 96, 160), (64, 48, 32), depths=(2, 1, 1, 2))
    space = replace(space, largest=largest)

    def pieces(arch):
        return pieces_of(arch, (28, 14))

    known = set(space_pieces(space, pieces))
    assert {piece for step in range(2000) for piece in pieces(space.sample(step))} <= known
    assert all(
        piece.size in {s // d for s in space.resolutions for d in (1, 2, 4, 8, 16)}
        for piece in known
    )


def test_no_width_is_below_the_smallest():
    space = ArchManager(published("search-M"), (256,), XS.ratios, smallest=published("search-XS"))
    assert space.fixed_sample(256, 0.25).widths == published("search-XS").widths
    assert space.sandwich(0, 1)[1].widths == published("search-XS").widths
    assert space.fixed_sample(256, 1.0).widths == published("search-M").widths
    for step in range(50):
        check_fits(published("search-XS"), space.sample(step))
    for name in ("search-S", "search-XS"):
        arch = published(name).with_numbers({"img_size": 256, "deconv.2": 32, "deconv.1": 24})
        assert space.decode(space.encode(arch)) == arch


def test_a_smallest_that_does_not_fit_is_one_line():
    path = ROOT / "mobile_configs/search-L.json"
    opts = ["SUPERNET.SMALLEST", str(path)]
    cfg = load_config(YAMLS["coco"], opts)
    with pytest.raises(ValueError, match=r"^SUPERNET.SMALLEST .*L.json: input_"):
        ArchManager.from_config(cfg, published("search-M"))
