"""The category of people, or of the custom keypoints' objects, in an annotation file."""

from __future__ import annotations

from typing import Any

from lib.dataset.annotations import Entry, is_whole
from lib.keypoints import KeypointSpec


def find_category(tree: Entry, annotations: list[Entry], spec: KeypointSpec) -> Entry:
    """The one category whose annotations have labelled joints; its joints must be those of `spec`.

    Where nobody has any: the category of the name of `spec`, else the first with joints, else the
    first. ValueError for several categories with labelled joints.
    """
    listed: dict[int, Entry] = {}
    categories = tree.get("categories")
    for entry in categories if isinstance(categories, list) else []:
        if isinstance(entry, dict) and is_whole(entry.get("id")):
            if listed.setdefault(int(entry["id"]), entry) is not entry:
                raise ValueError(f"has two categories of id {entry['id']}; number them 1, 2, ...")
    used = {
        int(one["category_id"])
        for one in annotations
        if "category_id" in one and any(map(_is_labelled, one.get("keypoints", [])[2::3]))
    }
    if len(used) > 1:
        names = sorted(str(listed.get(one, {}).get("name", one)) for one in used)
        raise ValueError(
            f"has keypoints of several categories, {', '.join(names)}; a network predicts one: "
            f"give them the same category_id, or a file each"
        )
    named = [number for number, entry in listed.items() if entry.get("name") == spec.category]
    with_joints = [number for number, entry in listed.items() if entry.get("keypoints")]
    number = next(iter([*used, *named, *with_joints, *listed]), 1)
    category = listed.get(number, {})
    check_joints(category, spec)
    return {"name": spec.category, **category, "id": number, "keypoints": list(spec.joints)}


def check_joints(category: Entry, spec: KeypointSpec) -> None:
    """ValueError where a category names other joints than those of `spec`, or in another order."""
    joints, wanted = category.get("keypoints") or list(spec.joints), list(spec.joints)
    if not isinstance(joints, list) or [*map(_letters, joints)] != [*map(_letters, wanted)]:
        raise ValueError(
            f"has the joints {joints}, {spec.name} has {wanted}; reorder or choose the "
            f"keypoints, or describe these joints in a joints file (docs/custom_data.md)"
        )


def _letters(name: Any) -> str:
    """`Left Eye`, `left-eye` -> `lefteye`."""
    return "".join(filter(str.isalnum, str(name))).lower()


def _is_labelled(visibility: Any) -> bool:
    return visibility is not None and visibility > 0
