"""Runs in a container: reads one large file, in order or here and there; prints bytes per second.

python3 read.py sequential|random FILE
"""

import os
import random
import sys
import time

PIECE, PAGE, LOOKS = 1024 * 1024, 4096, 2000


def main() -> None:
    """Read."""
    file = os.open(sys.argv[2], os.O_RDONLY)
    size = os.fstat(file).st_size
    numbers = random.Random(1)
    if sys.argv[1] == "sequential":
        places = list(range(0, size, PIECE))
        length = PIECE
    else:
        places = [numbers.randrange(size // PAGE) * PAGE for _ in range(LOOKS)]
        length = PAGE
    begun = time.monotonic()
    done = sum(len(os.pread(file, length, place)) for place in places)
    print(done / (time.monotonic() - begun))


if __name__ == "__main__":
    main()
