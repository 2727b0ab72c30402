"""The experiments of the baselines are what the tool writes."""

from __future__ import annotations

import sys

import pytest

from tests.helpers import ROOT
from tools import write_baselines

FAMILIES = ("higher_hrnet", "efficient_hrnet")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("experiments")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["write_baselines", "--out", str(out)])
        write_baselines.main()
    return {path.relative_to(out): path.read_text() for path in out.rglob("*.yaml")}


def test_the_experiments_are_what_the_tool_writes(written):
    folder = ROOT / "experiments"
    paths = [path for family in FAMILIES for path in folder.glob(f"*/{family}/*.yaml")]
    assert {path.relative_to(folder): path.read_text() for path in paths} == written


def test_shrinking_takes_from_the_finer_branches_and_leaves_the_coarsest():
    steps = [write_baselines.shrunk_hrnet(*step) for step in write_baselines.SHRINKING.values()]
    for before, after in zip(steps, steps[1:], strict=False):
        for stage in ("STAGE2", "STAGE3", "STAGE4"):
            *finer, coarsest = after[stage]["NUM_BLOCKS"]
            assert coarsest == 4
            then = before[stage]["NUM_BLOCKS"][:-1]
            assert all(own <= old for own, old in zip(finer, then, strict=True))
            assert sum(finer) < sum(then)
