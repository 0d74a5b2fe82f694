"""`python -m ztasks`: the same as the command `ztasks`."""

import sys

from ztasks.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
