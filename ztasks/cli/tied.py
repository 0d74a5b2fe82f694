"""Runs a command of ztasks whose life is tied to that of the process that has started it: `ztasks dev` does so.

    python -m ztasks.cli.tied DESCRIPTOR COMMAND [ARG]...

The descriptor is the reading end of a pipe. When its other end closes, however that came about, this process group is
killed; a worker's crew goes with its foreman.
"""

from __future__ import annotations

import sys

from ztasks.cli.main import main
from ztasks.io import lifeline

if __name__ == "__main__":
    lifeline.hold(int(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
