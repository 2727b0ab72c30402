"""The weights that come with the project: weights/NAME.safetensors and their card NAME.json."""

from __future__ import annotations

from pathlib import Path

from lib.utils.reading import hash_of, read_json

FOLDER = Path(__file__).parents[2] / "weights"
DEFAULT = "litepose-xs-crowdpose-v2"  # of the demo and of torch.hub
SUFFIX = ".safetensors"
MAX_CARD = 2**20  # bytes


def names() -> list[str]:
    """The names that `find_weights` knows."""
    return sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}"))


def find_weights(path: str | Path) -> Path:
    """The file of weights `path`, or that of the shipped network of this name.

    ValueError if there is neither.
    """
    if not Path(path).is_file() and str(path) in names():
        return FOLDER / f"{path}{SUFFIX}"
    if not Path(path).exists():
        ours = ", ".join(names())
        hint = f"; the project's own weights: {ours}" if ours and not Path(path).suffix else ""
        raise ValueError(f"there is no checkpoint {path}{hint}")
    return Path(path)


def check_card(path: Path) -> None:
    """ValueError if the card of the weights `path` names another sha256; without one, no check."""
    card = path.with_suffix(".json")
    if not card.exists():
        return
    tree = read_json(card, "card", MAX_CARD)
    wanted = tree.get("sha256") if isinstance(tree, dict) else None
    if wanted != hash_of(path):
        raise ValueError(
            f"{path} is not the file that {card.name} describes: its sha256 is another; "
            "get both files again, or move the weights elsewhere"
        )
