"""Recalling: which host lanes should give unstarted work back, since other hosts are idle and could do it."""

from __future__ import annotations

from ztasks.core.host_lane import MAX_PATIENCE, RECALL_AFTER, HostLane
from ztasks.core.lines import Line, Lines
from ztasks.core.routing import Demand


class Recalling:
    """Knows the lanes that hold more than their workers can run at once, and those that hold less."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._idle: dict[int, HostLane] = {}
        self._crowded: dict[int, HostLane] = {}
        self._look_at = 0.0
        """When to look again: all crowded lanes are looked at, so not at each turn."""

    def review(self, lane: HostLane) -> None:
        """Take in that something about a lane has changed."""
        if lane.open and lane.outstanding < lane.slots:
            self._idle[lane.number] = lane
        else:
            self._idle.pop(lane.number, None)
        if lane.outstanding > lane.slots and lane.group is not None:
            self._crowded[lane.number] = lane
        else:
            self._crowded.pop(lane.number, None)

    def leave(self, lane: HostLane) -> None:
        """Forget a lane."""
        self._idle.pop(lane.number, None)
        self._crowded.pop(lane.number, None)

    def due(self, now: float) -> list[int]:
        """Return the lanes to recall from: they have not moved for a while, and an idle lane could do what they hold.

        They are taken as recalled: none is named again before its patience, doubled each time, is over.
        """
        if now < self._look_at or not self._idle or not self._crowded or self._lines.next() is not None:
            return []
        self._look_at = now + RECALL_AFTER
        could: dict[Line, bool] = {}
        found = []
        for number, lane in self._crowded.items():
            if now - lane.moved >= lane.patience and any(self._wanted(spec.route, could) for spec in lane.counts):
                lane.moved = now
                lane.patience = min(2 * lane.patience, MAX_PATIENCE)
                found.append(number)
        return found

    def _wanted(self, route: Demand, could: dict[Line, bool]) -> bool:
        """Tell whether an idle lane could take such work."""
        line = self._lines.line(route)
        if line not in could:
            could[line] = any(lane.outstanding < lane.slots and lane.room_for(line) > 0 for lane in line.lanes.values())
        return could[line]

    def next_event(self, now: float) -> float | None:
        """Return in how many seconds to look, or None: nobody is idle, or nobody holds too much."""
        if not self._idle or not self._crowded:
            return None
        return max(0.0, self._look_at - now)
