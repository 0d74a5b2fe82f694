"""The command line: `ztasks run` and `ztasks doctor`, and later `ztasks worker` and `ztasks head`.

main.py       the group of commands; imports a command when it is asked for
run.py        the options of `ztasks run`, checked
target.py     what to run: file.py:task or package.module:task
inputs.py     what to run it on: a lazy stream of calls
running.py    one run: inputs --feed--> executor --outcomes--> records
records.py    the record of a job, as JSON
output.py     where records are written
progress.py   what is shown meanwhile, on stderr
summary.py    what is counted, and the closing summary
activity.py   what the workers run just now
interrupt.py  Ctrl-C, once and twice

doctor.py     the options of `ztasks doctor`, and the order of its checks
check_*.py    the checks, by what they look at
findings.py   what a check has found, and how it is shown
cures.py      what to do about it
probing.py    runs what may hang in a process of its own: probe.py
"""
