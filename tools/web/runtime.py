"""ONNX Runtime for browsers: two files of the npm package onnxruntime-web."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from tarfile import TarFile
from typing import NamedTuple

PACKAGE = "onnxruntime-web@1.30.0"
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
TIMEOUT = 600  # seconds for a download of 33 MB
HINT = f"get them with `npm pack {PACKAGE}`, unpack the archive and pass --runtime package/dist"


class Runtime(NamedTuple):
    """The script with the version in its first lines, and the compiled code that it runs."""

    version: str
    script: bytes
    wasm: bytes


def read_runtime(folder: Path) -> Runtime:
    """The runtime in a folder `dist` of the package; ValueError if a file is missing or another."""
    contents = []
    for name in (SCRIPT, WASM):
        try:
            contents.append((folder / name).read_bytes())
        except OSError as error:
            raise ValueError(
                f"--runtime {folder} has no readable {name} ({error.strerror}); {HINT}"
            ) from None
    script, wasm = contents
    version = re.search(rb"ONNX Runtime Web v(\d[\w.+-]*)", script[:500])
    if version is None or not wasm.startswith(b"\0asm"):
        wrong = WASM if version else SCRIPT
        raise ValueError(f"{folder / wrong} is not a file of onnxruntime-web; {HINT}")
    return Runtime(version[1].decode(), script, wasm)


def find_runtime() -> Runtime:
    """The runtime from npm, which keeps what it has downloaded; ValueError where that fails."""
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(f"npm, which downloads ONNX Runtime, is not installed; elsewhere, {HINT}")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", PACKAGE, "--prefer-offline", "--fetch-retries=1", "--silent"]
        try:
            subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=TIMEOUT)
        except (OSError, subprocess.SubprocessError):
            raise ValueError(f"`npm pack {PACKAGE}` failed; where it works, {HINT}") from None
        [archive] = Path(folder).glob("*.tgz")
        with TarFile.open(archive) as tar:
            for name in (SCRIPT, WASM):
                member = tar.extractfile(f"package/dist/{name}")
                assert member is not None
                (Path(folder) / name).write_bytes(member.read())
        return read_runtime(Path(folder))
