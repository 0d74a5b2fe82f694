"""The chaos test: a batch under faults chosen by a seed, and an exact account of what became of it.

    python -m ztasks.chaos TARGET ...        docs/chaos.md says how to use it

__main__.py   the options, checked
session.py    a whole run
plan.py       which faults: pure, the seed decides all of it
job.py        in the workers: runs the task, misbehaves as planned, and notes each execution in a file
workers.py    which processes are workers now
strikes.py    kills and freezes workers as planned, in a thread of its own
batch.py      one passage of the batch: without faults as the base, or with them
outcomes.py   what became of each job, as its caller sees it
ledger.py     what the file of executions says
tally.py      executions against outcomes: duplicates, and losses
left.py       what is left behind
watchdog.py   the deadline: says what hangs, and ends the process
report.py     the account, as text and as JSON
"""
