"""The limits and times of the TCP sockets between hosts, and why they are what they are."""

from __future__ import annotations

from typing import Final

MAX_FRAME: Final = 2 * 1024 * 1024
"""A larger frame ends its connection: a chunk has at most 1 MiB besides its header."""

MAX_SMALL_FRAME: Final = 16 * 1024
"""The same where nothing is received but handshakes and subscriptions."""

MAX_FRAMES: Final = 64
MAX_BYTES: Final = 3 * 1024 * 1024
"""Messages of more are dropped. ZeroMQ limits frames only, and not their number."""

RECONNECT_MS: Final = 100
MAX_RECONNECT_MS: Final = 1000
CONNECT_MS: Final = 5000
"""How long one attempt to connect may take. The kernel's own two minutes would delay it after a cable was out."""

HANDSHAKE_MS: Final = 10_000
"""Whoever has not shown a key after so long is cut off. A head that is busy must have answered by then."""

UNANSWERED_MS: Final = 20_000
"""After so long without an acknowledgement by the other kernel, a connection is given up, and made anew."""

KEEPALIVE_SECONDS: Final = (20, 10, 3)
"""A connection without traffic is looked at after so long, then so often, and is given up after so many looks."""

CONTROL_HWM: Final = 1000
"""How many messages of control are kept for a peer that does not read: later ones say the same again."""

MAX_SOCKETS: Final = 65_000

COPIED: Final = 16 * 1024
"""Frames up to this size are received as bytes."""
