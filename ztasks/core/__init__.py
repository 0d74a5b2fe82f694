"""Decides. Pure state machines: no sockets, threads, clocks, files or randomness may live here; time is a parameter."""
