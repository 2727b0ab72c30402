"""A headless Chromium, for tests that look at pages as people do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = """
--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --hide-scrollbars
""".split()
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason=f"none of {', '.join(NAMES)} is installed"
)


def shown_by_chromium(page: Path, profile: Path, *flags: str) -> str:
    """The page's elements after its scripts have run; `profile` is a folder of the browser's."""
    own = (f"--user-data-dir={profile}", *flags)
    command = [CHROMIUM, *FLAGS, *own, "--dump-dom", page.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    return done.stdout
