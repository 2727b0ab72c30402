"""Annotation files with one random fault: read with the figures of the clean file, or refused."""

from __future__ import annotations

import copy
import functools
import logging
import math
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from lib.dataset.build import EvaluationSet, build_dataset, build_evaluation_set
from lib.dataset.image_files import ReadError
from lib.keypoints import KeypointSpec
from tests.cases import (
    ABSENT,
    AREA,
    CLEAN,
    EVERY,
    LAYOUTS,
    Tree,
    ap_of_shifted,
    base_tree,
    changed,
    config_of,
    each,
    write_case,
)
from tools import check_data

MUTATIONS = 170  # of each layout
PEOPLE = 6

VALUES: tuple[Any, ...] = (
    None,
    "",
    "text",
    "two\nlines",
    "7",
    "\ud800",
    0,
    -1,
    7,
    2**70,
    10**400,
    1.5,
    -0.0,
    1e30,
    math.nan,
    math.inf,
    -math.inf,
    True,
    False,
    [],
    {},
    [[]],
    [None],
)
KEYS = {
    "top": ("images", "annotations", "categories", "info", "licenses"),
    "images": ("id", "file_name", "width", "height", "crowdIndex", "license"),
    "categories": ("id", "name", "keypoints", "skeleton"),
    "annotations": (
        "id",
        "image_id",
        "category_id",
        "iscrowd",
        "num_keypoints",
        "keypoints",
        "bbox",
        "area",
        "segmentation",
    ),
}


class Mutation(NamedTuple):
    """One fault."""

    place: str  # a key of KEYS
    key: str  # "" for the entry itself
    value: Any
    index: int | None = None  # of a number in the list of `key`

    @property
    def is_harmless(self) -> bool:
        """Whether the figures must stay those of the clean file, if it is read."""
        if self.index is not None or not self.key:
            return False
        if self.place == "annotations":
            wrong = isinstance(self.value, bool) or not isinstance(self.value, (int, float))
            wrong = wrong or not (math.isfinite(self.value) and self.value > 0)
            return self.key not in ("keypoints", "image_id") and (self.key != "area" or wrong)
        return self.place == "categories" or self.key in ("crowdIndex", "info", "license")

    def __str__(self) -> str:
        value = "absent" if self.value is ABSENT else repr(self.value)[:40]
        return f"{self.place}.{self.key}[{self.index}] is {value}"

    def apply(self, tree: Tree, rng: random.Random) -> None:
        entry = tree if self.place == "top" else rng.choice(tree[self.place])
        value = self.value if self.value is ABSENT else copy.deepcopy(self.value)
        if not self.key:
            tree[self.place].append(entry | value if isinstance(value, dict) else value)
        elif self.index is not None:
            if self.key in entry:
                entry[self.key][self.index] = value
        elif value is ABSENT:
            entry.pop(self.key, None)
        else:
            entry[self.key] = value


def mutations(spec: KeypointSpec) -> list[Mutation]:
    """All faults that are tried in one layout."""
    keys = [(place, key) for place, of_place in KEYS.items() for key in of_place]
    whole = [Mutation(*pair, value) for pair in keys for value in (*VALUES, ABSENT)]
    inside = [("keypoints", range(0, 3 * spec.num_joints, 4)), ("bbox", range(4))]
    parts = [
        Mutation("annotations", key, value, index)
        for key, places in inside
        for index in places
        for value in VALUES
    ]
    repeated = [
        Mutation(place, "", value)
        for place in ("images", "annotations", "categories")
        for value in (None, 5, [], "text", {}, {"id": 99}, {"id": 1})
    ]
    return whole + random.Random(0).sample(parts, 150) + repeated


def chosen(layout: str) -> Iterator[tuple[Mutation, Tree]]:
    """MUTATIONS faults and the trees that have them: a function of the layout alone."""
    rng = random.Random(layout)
    for mutation in rng.sample(mutations(LAYOUTS[layout].spec), MUTATIONS):
        yield mutation, changed(layout, functools.partial(mutation.apply, rng=rng))


# --- the predictions ------------------------------------------------------------------------


@pytest.mark.parametrize("layout", EVERY)
def test_the_predictions_see_a_wrong_scale_and_nothing_else(layout: str, tmp_path: Path) -> None:
    cfg = config_of(layout, tmp_path)

    def ap(tree: Tree) -> float:
        write_case(tmp_path, layout, tree)
        return ap_of_shifted(build_evaluation_set(cfg), layout)

    larger = {"bbox": lambda _, box: [*box[:3], 1.2 * box[3]], "area": 1.2 * AREA}
    assert ap(base_tree(layout)) == pytest.approx(CLEAN)
    assert ap(changed(layout, each(**larger))) > 0.55


# --- one fault each -----------------------------------------------------------------------


def trial(
    layout: str, mutation: Mutation, tree: Tree, root: Path, log: pytest.LogCaptureFixture
) -> str:
    """What is wrong with how a mutated file is read; "" if nothing is."""
    path, cfg = write_case(root, layout, tree), config_of(layout, root)
    problems = []
    for read in (build_evaluation_set, read_all_samples):
        log.clear()
        try:
            data = read(cfg)
        except ValueError as error:
            if not (isinstance(error, ReadError) or path.name in str(error)):
                problems.append(f"an unclear line, {error}")
            continue
        except Exception as error:
            problems.append(f"{read.__name__}: {error!r}")
            continue
        lost = PEOPLE - sum(len(record.joints) for record in data.records)
        told = sum(map(int, re.findall(r": (\d+), such as ", log.text)))
        if lost > told:
            problems.append(f"{read.__name__}: {lost} people are lost, the log says {told}")
        if isinstance(data, EvaluationSet):
            problems += score_problems(data, layout, mutation)
    return ", ".join(problems)


def score_problems(data: EvaluationSet, layout: str, mutation: Mutation) -> list[str]:
    try:
        ap = ap_of_shifted(data, layout)
    except Exception as error:
        return [f"in scoring: {error!r}"]
    if 0 <= ap <= CLEAN + 1e-9 and (ap >= CLEAN - 1e-9 or not mutation.is_harmless):
        return []
    return [f"AP is {ap:.3f}, of the clean file {CLEAN}"]


def read_all_samples(cfg):
    """The training set, each sample made once; ValueError if one cannot be trained on."""
    dataset = build_dataset(cfg)
    for index in range(len(dataset)):
        sample = dataset[0, index]
        if not (np.isfinite(sample.joints).all() and np.isfinite(sample.sigmas).all()):
            raise AssertionError("a joint or a sigma is not finite")
    return dataset


@pytest.mark.parametrize("layout", EVERY)
def test_a_file_with_one_fault_is_read_right_or_refused(
    layout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lib")
    wrong = [
        f"{mutation}: {problem}"
        for mutation, tree in chosen(layout)
        if (problem := trial(layout, mutation, tree, tmp_path, caplog))
    ]
    assert not wrong, f"{len(wrong)} of {MUTATIONS}\n" + "\n".join(wrong)


@pytest.mark.parametrize("layout", EVERY)
def test_check_data_reads_every_file_with_one_fault(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opts = [*LAYOUTS[layout].opts, "DATASET.ROOT", str(tmp_path), "WORKERS", "1"]
    wrong = []
    for mutation, tree in chosen(layout):
        path = write_case(tmp_path, layout, tree)
        try:
            check_data.main(["--cfg", str(LAYOUTS[layout].yaml), "--no-decode", *opts])
        except ValueError as error:
            if path.name not in str(error):
                wrong.append(f"{mutation}: {error}")
        except Exception as error:
            wrong.append(f"{mutation}: {error!r}")
    capsys.readouterr()
    assert not wrong, "\n".join(wrong)
