"""Guard rails: arrows between packages, sizes, calls, and words that the repository avoids."""

from __future__ import annotations

import ast
import functools
import io
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT

LIB = sorted((ROOT / "lib").rglob("*.py"))
SCRIPTS = [*sorted(ROOT.glob("*.py")), *sorted((ROOT / "tools").rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
CODE = [*LIB, *SCRIPTS]
OURS = {"lib", "tools", "tests", *(path.stem for path in ROOT.glob("*.py"))}

FLOORS = (  # a package imports from itself and from floors before its own
    ("lib",),  # its __init__ alone
    ("lib.sides",),
    ("lib.keypoints", "lib.codec"),
    ("lib.utils",),
    ("lib.config",),
    ("lib.models", "lib.dataset"),
    ("lib.core",),
    ("lib.analysis",),
    ("lib.training", "lib.search", "lib.deploy"),
    ("lib.predictor",),
    ("lib.evaluation",),
    ("arch_manager",),
    ("dist_train", "valid", "weight_transfer", "hubconf"),
    ("tools",),
    ("tests",),
)
FLOOR_OF = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in CODE}


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.AST) -> set[str]:
    """Modules of ours that a file imports; `from a import b` counts as a.b where that is one."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                names.add(name if name in MODULES else str(node.module))
    return {name for name in names if name.split(".")[0] in OURS}


def package_of(module: str) -> str:
    """`lib.core` of lib.core.loss, `tools` of tools.demo.media, `valid` of valid."""
    parts = module.split(".")
    return ".".join(parts[: 2 if parts[0] == "lib" else 1])


# --- arrows -----------------------------------------------------------------------------


def may_import(package: str, other: str) -> bool:
    return other == package or FLOOR_OF[other] < FLOOR_OF[package]


def test_imports_point_downward():
    assert not [
        f"{module} imports {name}"
        for module, path in MODULES.items()
        for name in sorted(imports(tree_of(path)))
        if not may_import(package_of(module), package_of(name))
    ]


def test_few_files_read_the_config_or_build_networks():
    """All others take values, and networks that are built already."""
    within = {
        "lib.config": ("lib.config", "lib.models.load", "lib.models.bare_weights"),
        "lib.models": ("lib.models", "lib.predictor", "lib.evaluation"),
    }
    for module, path in MODULES.items():
        used = {package_of(name) for name in imports(tree_of(path)) if name != "lib.models.arch"}
        for package in used & set(within) if module.startswith("lib.") else ():
            assert module.startswith(within[package]), f"{module} imports {package}"


def inner_imports(module: str) -> set[str]:
    package = package_of(module)
    return {name for name in imports(tree_of(MODULES[module])) if package_of(name) == package}


def level(module: str) -> int:
    """1 for a file that imports nothing of its package, else one more than what it imports."""
    return 1 + max((level(name) for name in inner_imports(module)), default=0)


def test_the_core_is_small_and_flat():
    core = [name for name in MODULES if name.startswith("lib.core.")]
    assert len(core) <= 15
    assert max(map(level, core)) <= 5


def test_the_trainer_loads_few_files():
    loaded, todo = set(), {"lib.core.trainer"}
    while todo:
        loaded |= todo
        todo = {name for module in todo for name in imports(tree_of(MODULES[module]))} - loaded
    assert len(loaded) <= 16, sorted(loaded)


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef):
            yield node


def parameters(function: ast.FunctionDef) -> list[str]:
    """Names without self and cls."""
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return [arg.arg for arg in every if arg.arg not in ("self", "cls")]


def test_cfg_stops_at_the_door():
    core = [path for path in LIB if package_of(module_of(path)) == "lib.core"]
    doors = [f.name for path in core for f in functions(path) if "cfg" in parameters(f)]
    assert set(doors) <= {"from_config"}
    assert len(doors) <= 6


# --- sizes ------------------------------------------------------------------------------


def test_files_are_short():
    assert not [path for path in CODE if len(path.read_text("utf-8").splitlines()) > 300]


def test_functions_are_short_and_take_few_parameters():
    assert not [
        f"{path}:{function.lineno} {function.name}"
        for path in CODE
        for function in functions(path)
        if (function.end_lineno or 0) - function.lineno >= 60 or len(parameters(function)) > 8
    ]


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1500


# --- calls ------------------------------------------------------------------------------


def test_no_literal_is_unpacked():
    """`f(*(a, b))` hides which value binds to what: use keywords."""
    assert not [
        f"{path}:{node.lineno}"
        for path in [*CODE, *TESTS]
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Starred) and isinstance(node.value, (ast.Tuple, ast.List))
    ]


def is_avoided(node: ast.AST) -> bool:
    """A bare except, eval(...), exec(...) or x.cuda(...)."""
    if isinstance(node, ast.ExceptHandler):
        return node.type is None
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Name):
        return node.func.id in ("eval", "exec")
    return isinstance(node.func, ast.Attribute) and node.func.attr == "cuda"


def test_no_eval_no_bare_except_no_cuda_call():
    nodes = [(path, node) for path in CODE for node in ast.walk(tree_of(path))]
    assert not [f"{path}:{node.lineno}" for path, node in nodes if is_avoided(node)]


def opens_text(node: ast.AST) -> bool:
    """A call that reads or writes text in the encoding of the locale."""
    if not isinstance(node, ast.Call) or any(word.arg == "encoding" for word in node.keywords):
        return False
    function, values = node.func, [arg for arg in node.args if isinstance(arg, ast.Constant)]
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name == "open":
        owner = getattr(getattr(function, "value", None), "id", "")
        of_a_file = not owner[:1].isupper() and owner not in ("os", "av")  # unlike Image.open
        return of_a_file and not any("b" in str(mode.value) for mode in values)
    return (name == "read_text" and not node.args) or (name == "write_text" and len(node.args) < 2)


def test_text_is_utf_8_in_any_locale():
    nodes = [(path, node) for path in CODE for node in ast.walk(tree_of(path))]
    assert not [f"{path}:{node.lineno}" for path, node in nodes if opens_text(node)]


# --- words ------------------------------------------------------------------------------

AVOIDED = {  # a pattern -> what to write; names in quotes, flags and paths are left alone
    r"(?<![-/\"'`])pictures?(?![/\"'`])": "image",
    r"(?<!power )cuts?(?! off)": "extract, sub-network",
    r"(?<!ground[- ])truths?": "ground truth",
    r"ideal maps?": "ground-truth maps",
    r"mirror images?|mirrored": "flip, flipped image",
    r"(?:taken )?anew": "recalibrated, again",
    r"times as fast": "speed-up",
    r"by heart": "overfit",
    r"no number": "non-finite",
    r"one's own": "custom",
    r"beside": "next to, compared with",
}
ALLOWED = ("pictures", "truth")  # whole strings: keys of JSON files, an input of exported networks


def texts(path: Path) -> Iterator[str]:
    """What people read of a file: all of a page; docstrings, messages and comments of code."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield source
        return
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_words_are_those_of_the_field():
    avoided = re.compile("|".join(rf"\b(?:{word})\b" for word in AVOIDED), re.IGNORECASE)
    assert not [
        f"{path}: {match[0]!r} in {text[max(0, match.start() - 30) : match.end() + 20]!r}"
        for path in [*CODE, *PAGES]
        for text in texts(path)
        if text not in ALLOWED
        for match in avoided.finditer(text)
    ]


# --- the guard rails themselves -----------------------------------------------------------


def test_the_guard_rails_see_what_they_forbid():
    source = "import tools.x\nfrom lib import keypoints\nfrom lib.core.loss import push_loss"
    assert imports(ast.parse(source)) == {"tools.x", "lib.keypoints", "lib.core.loss"}
    assert package_of("lib.core.loss") == "lib.core"
    assert level("lib.core.trainer") > 1
    for text in ("path.read_text()", "path.write_text(x)", "open(p)", "path.open('w')"):
        assert opens_text(ast.parse(text).body[0].value)
    for text in (
        "path.read_text('utf-8')",
        "open(p, 'rb')",
        "Image.open(p)",
        "os.open(p)",
        "av.open(p)",
    ):
        assert not opens_text(ast.parse(text).body[0].value)
    assert "path" in parameters(next(functions(ROOT / "lib/utils/files.py")))


ENTRIES = ["valid", "dist_train", "weight_transfer", "arch_manager", "hubconf"]
ENTRIES += ["tools.search.__main__"]


@pytest.mark.parametrize("module", ENTRIES)
def test_idle_threads_sleep_on_a_busy_machine_as_lib_comes_before_torch(module):
    """OpenMP reads OMP_WAIT_POLICY when torch is loaded."""
    code = f"""
import os, sys
from pathlib import Path
read_text = Path.read_text
load = f"0.1 0.1 0.1 {{int(float(sys.argv[1]) * os.cpu_count()) + 1}}/99 1"
is_load = lambda path: str(path) == "/proc/loadavg"
Path.read_text = lambda path, **opts: load if is_load(path) else read_text(path, **opts)
class Watch:
    def find_spec(self, name, *_):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"))
            raise SystemExit
sys.meta_path.insert(0, Watch())
import {module}"""
    clean = {name: value for name, value in os.environ.items() if "OMP" not in name}
    active = {"OMP_WAIT_POLICY": "active"}
    cases = (("1", {}, "passive"), ("0", {}, "None"), ("1", active, "active"))
    for others, chosen, expected in cases:
        command = [sys.executable, "-c", code, others]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=clean | chosen)
        assert done.stdout.strip() == expected, done.stderr
