"""LitePose. Import it before torch: it decides how idle threads of PyTorch wait.

They sleep. By default they spin for a while, and two programs that share the cores of a machine
slow one another down tens of times (docs/performance.md). OMP_WAIT_POLICY, GOMP_SPINCOUNT and
KMP_BLOCKTIME of the user are kept. OpenMP reads them once, when torch is loaded.
"""

import os

if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
    os.environ["OMP_WAIT_POLICY"] = "passive"
