from __future__ import annotations
def parse_duration(value, what): return float(value)
def parse_size(value, what): return int(value)
