"""What to do about what goes wrong again and again: how to install a package here, and what workers say."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from typing import Final

KNOWN: Final = (
    (r"PYTHONHOME|No module named 'encodings'", "unset PYTHONHOME: it sends the interpreter to a foreign library."),
    (
        r"[^\s\"']*(?:sitecustomize|usercustomize)\.py|(?<=Error processing line \d of )\S+\.pth",
        "Mend {0}: every Python of this environment runs it at its start.",
    ),
    (r"Too many open files|descriptors; this process has", "ulimit -n 65536"),
    (
        r"can't start new thread|Resource temporarily unavailable",
        "Raise the limit of processes (ulimit -u, or that of the container), or end what you do not need.",
    ),
    (
        r"MemoryError|[Cc]annot allocate memory|failed to map segment",
        "Give it more memory: ulimit -v unlimited; raise the limit of the container.",
    ),
    (r"No space left on device", "Free some space, or set TMPDIR to a directory on another disk."),
    (
        r"undefined symbol|cannot open shared object file|GLIBC\w* not found|invalid ELF header",
        "A compiled package does not fit this system; install it anew: {install}",
    ),
    (r"No module named '(zmq|msgspec|cloudpickle)|(?:from|import) (?:zmq|msgspec)\b", "Install it anew: {install}"),
    (r"Operation not permitted|Function not implemented", "A sandbox forbids what ztasks needs; run outside of it."),
)
"""What is seen in messages of workers that do not start, and the cure. The first that matches counts."""


def install_command(*packages: str, anew: bool = False) -> str:
    """Return the command that installs packages into this environment."""
    if importlib.util.find_spec("pip") is None:
        command = f"uv pip install --python {shlex.quote(sys.executable)}{' --reinstall' if anew else ''}"
    else:
        command = f"{shlex.quote(sys.executable)} -m pip install {'--force-reinstall' if anew else '--upgrade'}"
    return f"{command} {' '.join(map(shlex.quote, packages))}"


def known_cure(text: str) -> str:
    """Return the cure for what a worker wrote; nothing if that is not known."""
    for pattern, cure in KNOWN:
        found = re.search(pattern, text)
        if found:
            return cure.format(found[0], install=install_command("pyzmq", "msgspec", "cloudpickle", anew=True))
    return ""
