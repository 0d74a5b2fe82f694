"""Benchmarks: ztasks and its peers on the same work, in one run, alternating.

Run `python -m benchmarks` from the root of the repository; README.md in this folder explains the table.

How a figure comes about:

    cli.py  ->  rounds.py  ->  child.py (a fresh process)  ->  measures/*.py  ->  contestants/*.py
                    |
                    +->  report.py (medians, ratios, goals)  ->  table.py (text or Markdown)
"""
