"""Death certificates: what is known of the end of a worker process, and of the job that it took down."""

from __future__ import annotations

import textwrap
from typing import Final

import msgspec

SHOWN_LINES: Final = 12
"""How many lines of a stack or of stderr a message shows; the certificate itself has all."""


class DeathCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker process died while it ran a job. What is not known is None, or empty."""

    pid: int
    host: str = ""
    signal: str | None = None
    """The name of the signal that ended it, such as `SIGSEGV`; None if it exited."""
    exit_code: int | None = None
    """The code it exited with; None if a signal ended it."""
    reason: str = ""
    """Why ztasks itself ended it (a timeout, a limit on memory); empty if it did not."""
    job: str = ""
    """The id of the job that it was running, as `current_job().id` has it; empty if none."""
    call: str = ""
    """The call, with its arguments' shortened repr."""
    attempt: int = 0
    """Which attempt at the job this was, from 1."""
    seconds: float | None = None
    """How long the job had been running (up to 1 ms more than that, for short jobs that were claimed together)."""
    peak_memory: int | None = None
    """The most memory that the process ever had resident, in bytes."""
    oom: str = ""
    """Evidence that the kernel's out-of-memory killer struck; empty if there is none."""
    stack: str = ""
    """The Python stack at its end, where the signal allowed to write it down."""
    stderr: str = ""
    """The last that it wrote to stderr (up to 4 KiB)."""

    @property
    def summary(self) -> str:
        """The end in one line."""
        if self.signal is not None:
            how = f"was killed by {self.signal}"
        elif self.exit_code is not None:
            how = f"exited with code {self.exit_code}"
        else:
            how = "is gone"
        words = [f"worker {self.pid} {how}"]
        if self.seconds is not None and self.job:
            words.append(f"after running job {self.job} for {self.seconds:.3g} s")
        if self.peak_memory:
            words.append(f"with a peak memory of {self.peak_memory / 2**20:.0f} MiB")
        told = " ".join(words)
        return "; ".join(filter(None, (told, self.reason, self.oom)))

    @property
    def details(self) -> str:
        """The call, the stack and the last lines of stderr, as far as they are known; each on lines of its own."""
        parts = [f"  call: {self.call}"] if self.call else []
        for title, text in (("stack", self.stack), ("stderr", self.stderr)):
            if text:
                parts.append(f"  {title}:\n{textwrap.indent(_shown(text, last=title == 'stderr'), '    ')}")
        return "\n".join(parts)

    def __str__(self) -> str:
        return "\n".join(filter(None, (self.summary, self.details)))


def _shown(text: str, *, last: bool) -> str:
    """Return the last lines of a text, or the first: a stack begins with the innermost call."""
    lines = text.strip().splitlines()
    if len(lines) > SHOWN_LINES:
        lines = ["...", *lines[-SHOWN_LINES:]] if last else [*lines[:SHOWN_LINES], "..."]
    return "\n".join(lines)
