"""One seed for all random choices of a test run; always printed, so that a run can be repeated."""

from __future__ import annotations

import os
import random

SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(2**32))
# For the processes that pytest-xdist starts: all collect the same tests.
os.environ["SEED"] = str(SEED)
