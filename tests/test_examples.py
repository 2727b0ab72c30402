"""The files for clusters run commands that exist."""

from __future__ import annotations

import shlex
import subprocess

import pytest
import yaml

from lib.config import load_config
from lib.models.arch import ArchSpec
from tests.helpers import ROOT

CLUSTER = ROOT / "examples/cluster"


def commands() -> dict[str, str]:
    """{file: the command line of its training}"""
    job = yaml.safe_load((CLUSTER / "trainjob.yaml").read_text("utf-8"))["spec"]["trainer"]
    task = yaml.safe_load((CLUSTER / "skypilot.yaml").read_text("utf-8"))
    [line] = [
        line
        for line in (CLUSTER / "slurm.sh").read_text("utf-8").splitlines()
        if line.startswith("A=")
    ]
    return {
        "trainjob.yaml": shlex.join([*job["command"], *job["args"]]),
        "skypilot.yaml": task["run"].replace("\\\n", " "),
        "slurm.sh": line.removeprefix('A="').removesuffix('"'),
    }


@pytest.mark.parametrize("name", ["trainjob.yaml", "skypilot.yaml", "slurm.sh"])
def test_the_files_and_keys_of_a_command_exist(name):
    words = shlex.split(commands()[name].replace("=", " "))
    flags = {flag: words[words.index(flag) + 1] for flag in ("--cfg", "--superconfig")}
    opts = words[words.index("--superconfig") + 2 :]
    arch = ArchSpec.from_json(ROOT / flags["--superconfig"])
    cfg = load_config(ROOT / flags["--cfg"], opts, img_size=arch.img_size)
    assert cfg.TRAIN.SAVE_STEPS == 500


@pytest.mark.parametrize("name", ["skypilot.yaml", "slurm.sh"])
def test_scripts_parse(name):
    text = (CLUSTER / name).read_text("utf-8")
    script = yaml.safe_load(text)["run"] if name.endswith("yaml") else text
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_image_has_what_requirements_name():
    """PyTorch is installed alone, from an index that has the build for a CPU."""
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    assert "grep ^torch== requirements.txt" in dockerfile
    pins = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    assert sum(pin.startswith("torch==") for pin in pins) == 1
