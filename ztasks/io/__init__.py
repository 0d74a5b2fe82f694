"""Does. Sockets, threads, processes, files and clocks live here, and nowhere below."""
