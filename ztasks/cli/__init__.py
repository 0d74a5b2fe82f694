"""The command line: `ztasks run` and `ztasks doctor`, and later `ztasks worker` and `ztasks head`.

main.py         the group of commands; imports a command when it is asked for
run.py          `ztasks run`: what is asked for, checked; what is opened and closed around the run
run_options.py  its options, as they are declared and explained; run_inputs.py, run_workers.py: what some come to
grouped.py      options in groups

doctor.py       the options of `ztasks doctor`, and the order of its checks
check_*.py      the checks, by what they look at
findings.py     what a check has found, and how it is shown
cures.py        what to do about it
probing.py      runs what may hang in a process of its own: probe.py
"""
