"""Signals that a foreman's workers leave to it."""

from __future__ import annotations

import signal


def hold_signals() -> None:
    """In a worker: SIGTERM, which batch systems send to all processes of a slot, is for the foreman to heed.

    A handler, and not SIG_IGN, which the programs that jobs start would inherit.
    """
    signal.signal(signal.SIGTERM, lambda *_: None)
