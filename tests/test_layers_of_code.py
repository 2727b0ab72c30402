"""The arrows between packages, and words that the tree does without."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.helpers import ROOT

LIB = sorted((ROOT / "lib").rglob("*.py"))
SCRIPTS = [*sorted(ROOT.glob("*.py")), *sorted((ROOT / "tools").rglob("*.py"))]
OURS = {"lib", "tools", "tests", *(path.stem for path in ROOT.glob("*.py"))}

KEYPOINTS, CODEC = "lib.keypoints", "lib.codec"
MAY_IMPORT = {  # a part of lib -> what of ours it may import, beside itself
    KEYPOINTS: (),
    CODEC: (),
    "lib.config": (KEYPOINTS, CODEC),
    "lib.utils": (KEYPOINTS,),
    "lib.models": (KEYPOINTS, "lib.utils"),
    "lib.dataset": (KEYPOINTS, CODEC, "lib.utils"),
    "lib.core": (KEYPOINTS, CODEC, "lib.dataset", "lib.models.arch", "lib.utils"),
    "lib.analysis": (KEYPOINTS, CODEC, "lib.core", "lib.dataset", "lib.utils"),
    "lib.deploy": (KEYPOINTS, CODEC, "lib.core", "lib.dataset", "lib.utils"),
    "lib.search": (KEYPOINTS, "lib.core", "lib.dataset", "lib.models.arch", "lib.utils"),
    "lib.training": (KEYPOINTS, "lib.core", "lib.dataset", "lib.models.arch", "lib.utils"),
}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(tree: ast.AST) -> set[str]:
    """Modules of ours that a file imports; `from a import b` counts as a.b where that is one."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                place = ROOT / name.replace(".", "/")
                is_module = place.with_suffix(".py").exists() or place.is_dir()
                found.add(name if is_module else node.module)
    return {name for name in found if name.split(".")[0] in OURS}


def below(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def part_of(module: str) -> str:
    return next(part for part in MAY_IMPORT if below(module, part))


@pytest.mark.parametrize("path", LIB, ids=module_of)
def test_imports_follow_the_arrows(path):
    module = module_of(path)
    if module == "lib":
        assert imports(ast.parse(path.read_text())) == set()
        return
    part = part_of(module)
    allowed = (*MAY_IMPORT[part], *([] if part in (KEYPOINTS, CODEC) else [part]))
    against = {
        name
        for name in imports(ast.parse(path.read_text()))
        if not any(below(name, package) for package in allowed)
    }
    assert against == set(), f"{part} may import {allowed}"


def test_nothing_imports_a_script_or_a_tool():
    names = {"tools", *(path.stem for path in ROOT.glob("*.py"))}
    for path in LIB:
        assert not {n.split(".")[0] for n in imports(ast.parse(path.read_text()))} & names, path


@pytest.mark.parametrize("path", [*LIB, *SCRIPTS], ids=module_of)
def test_no_eval_no_bare_except_no_cuda_call(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except in line {node.lineno}"
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
            by_name = isinstance(node.func, ast.Name)
            assert not (by_name and name in ("eval", "exec")), f"{name} in line {node.lineno}"
            assert by_name or name != "cuda", f".cuda( in line {node.lineno}"


def test_the_arrows_see_what_they_forbid():
    """The checks above pass over nothing: each finds its own kind of import."""
    source = (
        "import tools.x\nfrom lib.dataset import keypoints\nfrom lib.core.loss import push_loss"
    )
    assert imports(ast.parse(source)) == {"tools.x", KEYPOINTS, "lib.core.loss"}
    assert part_of(KEYPOINTS) == KEYPOINTS
    assert part_of("lib.dataset.build") == "lib.dataset"
