"""LitePose. Import it before torch: it decides how idle threads of PyTorch wait.

OpenMP lets them spin for a while, which is fast on a quiet machine; but two programs with
spinning threads slow one another down many times (docs/performance.md). So they sleep where other
programs keep half of the cores busy. OpenMP reads the environment once, when torch is loaded.
"""

import os
import time
from pathlib import Path


def others_running() -> int:
    """How many threads of other programs run at this moment; 0 where the system does not say."""
    # Not the load average: its minute also holds our previous command.
    loads = Path("/proc/loadavg")  # "0.20 0.18 0.12 3/80 11206": 3 of 80 threads run
    counts = []
    for _ in range(5):  # a short job of the system is seen in some of the readings only
        if not loads.exists():
            return 0
        counts.append(int(loads.read_text(encoding="ascii").split()[3].split("/")[0]))
        time.sleep(0.002)
    return min(counts) - 1  # this one


CHOSEN = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys()  # by the user
if not CHOSEN and others_running() >= (os.cpu_count() or 1) / 2:
    os.environ["OMP_WAIT_POLICY"] = "passive"
