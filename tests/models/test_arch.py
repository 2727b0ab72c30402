"""An architecture is its JSON file; the error of a malformed one names what it lacks."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from lib.models.arch import ArchSpec, largest_arch, make_divisible, uniform_arch
from tests.helpers import ROOT, TINY

FILES = sorted((ROOT / "mobile_configs").glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_published_file_survives_the_round_trip(path, tmp_path):
    arch = ArchSpec.from_json(path)
    arch.to_json(tmp_path / "again.json")
    assert ArchSpec.from_json(tmp_path / "again.json") == arch
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(path.read_text())
    assert (tmp_path / "again.json").read_text().strip() == path.read_text().strip()


def test_the_summary_tells_sizes_widths_and_depths_apart():
    arch = uniform_arch(64, 8, (8, 8, 16, 16), (8, 8, 8), depths=(1, 2, 3, 1))
    assert arch.summary == "64 px, stem 8, stages 8 8 16 16 of 1 2 3 1 blocks, deconv 8 8 8"
    shallower = arch.with_numbers({"stages.2.depth": 2})
    assert shallower.summary == arch.summary.replace("1 2 3 1", "1 2 2 1")


def test_equal_architectures_are_one_key_of_a_table():
    assert {ArchSpec.from_dict(TINY.to_dict()): "seen"}[TINY] == "seen"
    assert largest_arch(256) != largest_arch(512)


def drop_block(tree):
    del tree["backbone_setting"][1]["block_setting"][0]


def add_block(tree):
    tree["backbone_setting"][2]["block_setting"].append([6, 7])


def drop_stage(tree):
    del tree["backbone_setting"][3]


def swap_strides(tree):
    tree["backbone_setting"][0]["stride"] = 1


def even_kernel(tree):
    tree["backbone_setting"][0]["block_setting"][0] = [6, 4]


def short_block(tree):
    tree["backbone_setting"][3]["block_setting"][0] = [6]


def no_blocks(tree):
    tree["backbone_setting"][0] |= {"num_blocks": 0, "block_setting": []}


def half_a_channel(tree):
    tree["backbone_setting"][2]["channel"] = 16.5


def unknown_key(tree):
    tree["image_size"] = tree["img_size"]


def unknown_stage_key(tree):
    tree["backbone_setting"][1]["width"] = 8


def missing_key(tree):
    del tree["input_channel"]


def missing_stage_key(tree):
    del tree["backbone_setting"][2]["channel"]


def odd_size(tree):
    tree["img_size"] = 250


def two_deconvs(tree):
    tree["deconv_setting"] = [16, 16]


def negative_deconv(tree):
    tree["deconv_setting"] = [16, -16, 16]


def stages_of_another_kind(tree):
    tree["backbone_setting"] = {"0": []}


def stage_is_a_number(tree):
    tree["backbone_setting"][1] = 8


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (drop_block, "stage 1 lists 0 blocks, num_blocks is 1"),
        (add_block, "stage 2 lists 2 blocks, num_blocks is 1"),
        (drop_stage, "stages of strides [2, 2, 2]; must be [2, 2, 2, 1]"),
        (swap_strides, "stages of strides [1, 2, 2, 1]; must be [2, 2, 2, 1]"),
        (even_kernel, "stage 0: kernel size 4 is even"),
        (short_block, "stage 3: a block is [expansion, kernel size], not [6]"),
        (no_blocks, "stage 0, num_blocks is 0; must be a whole number from 1 to 100"),
        (half_a_channel, "stage 2, channel is 16.5"),
        (unknown_key, "the architecture has unknown image_size; known: img_size"),
        (unknown_stage_key, "stage 1 has unknown width; known: num_blocks"),
        (missing_key, "the architecture lacks input_channel"),
        (missing_stage_key, "stage 2 lacks channel"),
        (odd_size, "img_size is 250; must be a multiple of 32"),
        (two_deconvs, "deconv_setting is [16, 16]; must list 3 widths"),
        (negative_deconv, "deconv_setting is -16"),
        (stages_of_another_kind, "backbone_setting must list the stages"),
        (stage_is_a_number, "stage 1 must hold the keys num_blocks"),
    ],
)
def test_a_file_that_does_not_fit_names_itself_and_the_place(change, place, tmp_path):
    path = tmp_path / "mine.json"
    assert refusal(path, change).startswith(f"{path}: {place}")


def refusal(path: Path, change) -> str:
    """What is said of TINY after `change`, in the file `path`."""
    tree = copy.deepcopy(TINY.to_dict())
    change(tree)
    path.write_text(json.dumps(tree))
    with pytest.raises(ValueError, match=path.name) as caught:
        ArchSpec.from_json(path)
    return str(caught.value)


def change_numbers(**numbers):
    def change(tree):
        tree |= numbers

    return change


def wide_channel(tree):
    tree["backbone_setting"][1]["channel"] = 10**7


def wide_kernel(tree):
    tree["backbone_setting"][0]["block_setting"][0] = [6, 10**6 + 1]


def wide_expansion(tree):
    tree["backbone_setting"][0]["block_setting"][0] = [1000, 7]


def many_blocks(tree):
    tree["backbone_setting"][3] |= {"num_blocks": 101, "block_setting": [[6, 7]] * 101}


def each_number_at_its_limit(tree):
    for stage in tree["backbone_setting"]:
        stage |= {"num_blocks": 100, "channel": 8192, "block_setting": [[64, 63]] * 100}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_numbers(img_size=32 * 10**40), f"img_size is 32{'0' * 40}; must be a whole"),
        (change_numbers(img_size=8192), "img_size is 8192; must be a whole number from 1 to 4096"),
        (change_numbers(input_channel=True), "input_channel is True; must be a whole number"),
        (change_numbers(input_channel=float("nan")), "input_channel is nan; must be a whole"),
        (change_numbers(deconv_setting=[8, 8, 9999]), "deconv_setting is 9999; must be a whole"),
        (wide_channel, "stage 1, channel is 10000000; must be a whole number from 1 to 8192"),
        (wide_kernel, "stage 0, kernel size is 1000001; must be a whole number from 1 to 63"),
        (wide_expansion, "stage 0, expansion is 1000; must be a whole number from 1 to 64"),
        (many_blocks, "stage 3, num_blocks is 101; must be a whole number from 1 to 100"),
        (each_number_at_its_limit, "its blocks have "),
        (change_numbers(deconv_setting=list(range(10**5))), "deconv_setting is [0, 1, 2"),
        (change_numbers(**{f"k{i}": 1 for i in range(10**4)}), "the architecture has unknown k0"),
    ],
)
def test_a_number_that_no_network_has_is_refused_in_a_short_line(change, message, tmp_path):
    path = tmp_path / "mine.json"
    line = refusal(path, change)
    assert line.startswith(f"{path}: {message}")
    assert len(line) < len(str(path)) + 250


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 200_000, "is nested too deeply"),
        (f'{{"img_size": {"9" * 5000}}}', "is not JSON: Exceeds the limit"),
        ('{"img_size": 64, "img_size": 96}', "is not JSON: the key 'img_size' stands twice"),
        ("[" + "1," * 2**19 + "1]", "has more than 1048576 bytes"),
    ],
    ids=["depth", "digits", "twice", "bytes"],
)
def test_a_file_that_no_parser_should_read_is_refused(text, message, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.json") as caught:
        ArchSpec.from_json(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"{", b"", b"img_size: 4", b"\x89PNG\xff", b"[]", b"null"])
def test_a_file_that_is_no_architecture_is_named(content, tmp_path):
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"mine\.json(: the architecture must| is not JSON)"):
        ArchSpec.from_json(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json: No such file"):
        ArchSpec.from_json(tmp_path / "none.json")


@pytest.mark.parametrize("divisor", [4, 8, 16])
def test_made_divisible_is_near_and_never_much_smaller(divisor):
    for value in [step / 4 for step in range(1, 4 * 400)]:
        made = make_divisible(value, divisor)
        assert made % divisor == 0
        assert made >= divisor
        assert made >= 0.9 * value
        # The nearest multiple, or the one after it where the nearest is too small.
        assert abs(made - value) <= divisor / 2 or made - value <= divisor or made == divisor
        if value % divisor == 0:
            assert made == value
