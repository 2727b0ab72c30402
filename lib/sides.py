"""Left and right in the names of joints: `left_eye`, `eye_L`, `LEye`, `Left Eye`, `leftear`, ..."""

from __future__ import annotations

import functools
import logging
import re
from collections import defaultdict
from collections.abc import Sequence

logger = logging.getLogger(__name__)

Pair = tuple[str, str]

_LOWER = r"[^\W\d_A-Z左右]"  # letters beyond ASCII count as small
_WORD = re.compile(rf"[A-Z]+(?!{_LOWER})|[A-Z]?{_LOWER}+|\d+|[左右]")

# Where a name (small words, one space between them) tells a side; surest first.
_SPELLED = re.compile(r"\b(left|right)\b")
_LEFT = "left|lt|l|links|gauche|izquierd[ao]|sinistr[ao]|esquerd[ao]|左"
_RIGHT = "right|rt|r|rechts|droite?|derech[ao]|destr[ao]|direit[ao]|右"
_WORD_OR_LETTER = re.compile(rf"\b({_LEFT}|{_RIGHT})\b")
_JOINED = re.compile(r"\b(left|right)(?=\w\w)|(?<=\w\w\w)(left|right)\b")
_JOINED_LETTERS = tuple(  # too weak to warn: without a counterpart they are no sides
    map(re.compile, (r"^[lr](?=\w)", r"\b[lr](?=\w+( \d+)?$)", r"(?<=\w)[lr]\b"))
)


def flips_from_names(joints: Sequence[str], where: str) -> tuple[Pair, ...]:
    """The pairs that follow from names; one side alone is an error or, if unsure, a warning.

    Without its pair, a flipped image would teach that the left joint is the right one.
    """
    surely, maybe = without_counterpart(joints)
    if surely:
        raise ValueError(
            f"{where} has {surely[0]} without a counterpart on the other side; give flips, the "
            f"pairs that change places when an image is flipped ([]: none)"
        )
    if maybe:
        _warn_once(
            f"{where} has {', '.join(maybe)} without a counterpart on the other side: a flip does "
            f"not exchange them; if they are left or right, give flips, if not, flips: []"
        )
    return left_and_right(joints)


@functools.cache
def _warn_once(message: str) -> None:
    """Log a warning; a joints file may be read several times."""
    logger.warning(message)


def left_and_right(joints: Sequence[str]) -> tuple[Pair, ...]:
    """The pairs (left, right) of `joints`: names that differ in nothing but their side.

    Case and separators do not count. A name with two or more counterparts is in no pair.
    """
    pairs: dict[str, str] = {}
    for side in (_SPELLED, _WORD_OR_LETTER, _JOINED, *_JOINED_LETTERS):
        used = {*pairs, *pairs.values()}
        names: dict[str, list[str]] = defaultdict(list)
        for joint in joints:
            if joint not in used:
                names[_mark(side, joint, "<", ">")].append(joint)
        for joint in joints:
            lefts = names.get(_mark(side, joint, "<", ">"), [])
            rights = names.get(_mark(side, joint, ">", "<"), [])
            is_left = "<" in _mark(side, joint, "<", ">").partition(">")[0]
            if is_left and lefts == [joint] and len(rights) == 1:
                pairs[joint] = rights[0]
    return tuple((joint, pairs[joint]) for joint in joints if joint in pairs)


def without_counterpart(joints: Sequence[str]) -> tuple[list[str], list[str]]:
    """Joints in no pair that have a side: those where it is a word, and those where it may be."""
    paired = {joint for pair in left_and_right(joints) for joint in pair}
    single = [joint for joint in joints if joint not in paired]
    surely = [joint for joint in single if _SPELLED.search(_words(joint))]
    maybe = [
        joint
        for joint in single
        for rest in [_JOINED.sub("", _WORD_OR_LETTER.sub("", _words(joint)))]
        if joint not in surely and rest != _words(joint) and re.search(_LOWER, rest)
    ]
    return surely, maybe


def _words(joint: str) -> str:
    """`L_Eye`, `LEye`, `l.eye` -> "l eye"."""
    return " ".join(_WORD.findall(joint)).casefold()


def _mark(side: re.Pattern[str], joint: str, left: str, right: str) -> str:
    """The words of `joint` with a mark in place of each side."""
    return side.sub(lambda one: left if re.fullmatch(_LEFT, one[0]) else right, _words(joint))
