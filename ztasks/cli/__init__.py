"""The command line: `ztasks run`, and later `ztasks worker` and `ztasks head`.

main.py       the group of commands; imports a command when it is asked for
run.py        the options of `ztasks run`, checked
target.py     what to run: file.py:task or package.module:task
inputs.py     what to run it on: a lazy stream of calls
batch.py      one run: inputs --feed--> executor --outcomes--> records
records.py    the record of a job, as JSON
output.py     where records are written
progress.py   what is shown meanwhile, on stderr
summary.py    what is counted, and the closing summary
interrupt.py  Ctrl-C, once and twice
"""
