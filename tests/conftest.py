"""What every test needs: one thread per process, no network, no usage statistics.

Tests share few cores with the Ray processes that they start: more threads than cores make torch
spin instead of compute.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
