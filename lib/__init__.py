"""LitePose. Import it before torch: it decides how idle threads of PyTorch wait.

OpenMP lets them spin for a while, which is fast on a quiet machine; but two programs with
spinning threads slow one another down many times (docs/performance.md). So they sleep where other
programs keep half of the cores busy. OpenMP reads the environment once, when torch is loaded.
"""

import os

CHOSEN = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys()  # by the user
IS_BUSY = hasattr(os, "getloadavg") and os.getloadavg()[0] >= (os.cpu_count() or 1) / 2

if IS_BUSY and not CHOSEN:
    os.environ["OMP_WAIT_POLICY"] = "passive"
