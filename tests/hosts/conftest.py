"""Each test must leave nothing behind: no thread, child process or directory of ours."""

import sys
from pathlib import Path

for _folder in (Path(__file__).parent, Path(__file__).parents[1]):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))  # for `proxy`, `namespaces` and `fleet`, and for `support`

from clean_room import _nothing_left, _own_tmpdir  # noqa: E402

__all__ = ["_nothing_left", "_own_tmpdir"]
