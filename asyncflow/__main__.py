"""Let `python -m asyncflow` be the command `asyncflow`."""

import sys
from multiprocessing import freeze_support

from asyncflow.cli import main

if __name__ == "__main__":
    # a frozen program starts its own workers by running itself: this call is for them
    freeze_support()
    sys.exit(main())
