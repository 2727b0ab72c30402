"""Left and right are found in the usual forms of joint names, and nowhere else."""

from __future__ import annotations

import logging

import pytest

from lib.keypoints import COCO, CROWD_POSE
from lib.sides import flips_from_names, left_and_right

FORMS = [
    "eye_left eye_right",  # Lightning Pose
    "L_Eye R_Eye",  # AP-10K
    "leftEye rightEye",
    "Left Eye,Right Eye",
    "LEye REye",  # Halpe
    "lEye rEye",
    "eyeL eyeR",  # SLEAP's flies
    "forelegL4 forelegR4",
    "eye.L eye.R",  # Blender
    "left-eye right-eye",
    "eye (left),eye (right)",
    "Left_front_paw Right_front_paw",
    "front_left_paw front_right_paw",
    "LeftAnkle RightAnkle",
    "LEFT_EYE RIGHT_EYE",
    "Lt.Eye Rt.Eye",
    "leftear rightear",  # DeepLabCut's mice
    "earleft earright",
    "lankle rankle",
    "Lpaw Rpaw",
    "LASI RASI",  # Vicon
    "front_lpaw front_rpaw",
    "left_eye R_eye",
    "FußL FußR",
    "flügel_links flügel_rechts",
    "œil gauche,œil droit",
    "ojoIzquierdo ojoDerecho",
    "左目 右目",
    "l r",
    "left right",
]
NO_SIDES = [
    "l_1 r",
    "L1 L2 L3 L4 L5",
    "lip hip leg",
    "rear tail",
    "upright bright cleft",
    "leg ring lower_lip",
]
UNSURE = [
    ("fuß_links kopf", "fuß_links"),
    ("leg_l_front tail", "leg_l_front"),
    ("L_Eye nose", "L_Eye"),
    ("leftear tail", "leftear"),
]


def names(text: str) -> list[str]:
    return text.split("," if "," in text else " ")


@pytest.mark.parametrize("text", FORMS)
def test_a_usual_form_gives_a_pair(text, caplog):
    left, right = names(text)
    assert left_and_right(["nose", right, left]) == ((left, right),)
    assert flips_from_names(["nose", left, right], "joints") == ((left, right),)
    assert not caplog.records


@pytest.mark.parametrize("text", NO_SIDES)
def test_letters_that_are_no_sides_give_neither_pair_nor_warning(text, caplog):
    assert flips_from_names(names(text), "joints") == ()
    assert not caplog.records


def test_a_pair_has_the_same_words_but_for_the_side():
    corners = [f"{eye}_eye_{end}_corner" for eye in ("left", "right") for end in ("left", "right")]
    assert left_and_right(corners) == ((corners[0], corners[3]), (corners[1], corners[2]))
    assert left_and_right(["left_ear", "right_ear", "rear"]) == (("left_ear", "right_ear"),)
    assert left_and_right(["LKnee1", "RKnee2"]) == ()
    paws = ["paw_FL", "paw_FR", "paw_RL", "paw_RR"]  # front and rear
    assert left_and_right(paws) == ((paws[0], paws[1]), (paws[2], paws[3]))


@pytest.mark.parametrize(("text", "lonely"), UNSURE)
def test_a_letter_without_its_counterpart_is_warned_of_once(text, lonely, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert flips_from_names(names(text), f"{text}: joints") == ()
    [record] = caplog.records
    assert record.message.startswith(f"{text}: joints has {lonely} without a counterpart")
    assert record.message.endswith("give flips, if not, flips: []")


@pytest.mark.parametrize("text", ["eye_left nose", "Right Eye,nose", "leftEye left_eye right_eye"])
def test_a_side_in_full_without_its_counterpart_is_refused(text):
    with pytest.raises(ValueError, match=r"^beetle: joints has .* without a counterpart .* flips"):
        flips_from_names(names(text), "beetle: joints")


@pytest.mark.parametrize("spec", [COCO, CROWD_POSE], ids=lambda spec: spec.name)
def test_known_joints_pair_by_their_prefix(spec):
    left = [name for name in spec.joints if name.startswith("left_")]
    assert spec.flips == tuple((name, name.replace("left_", "right_")) for name in left)
