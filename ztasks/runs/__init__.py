"""Runs: a task on many inputs, a record for each job. What `ztasks.run_batch` and `ztasks run` are made of.

    inputs.py, files.py --> binding.py --> [ run.py ] --> executor --> job.py, command.py (in the workers)
                                            |     ^
                             keys.py, halting.py  +--> records.py, encoding.py, pickles.py --> output.py, record_file.py

batch.py        run_batch, and what is opened and closed around a run
target.py       what to run: file.py:task or package.module:task
inputs.py       what to run it on: lazy streams of calls; files.py: those from files
binding.py      constants, and what text becomes for a task's annotations
run.py          one run: inputs become jobs, jobs become records
job.py          what is around a task in a worker; command.py: a program as the task
keys.py         what an input is known by in every run; counts.py: how often each was seen, in few bytes
halting.py      when too much fails
records.py      the record of a job; encoding.py: any value as JSON; pickles.py: what JSON cannot hold
record_file.py  the output file: locked, mended, read again; output.py: when is written
summary.py      what is counted; progress.py: what is shown meanwhile; text.py: values for people to read
interrupt.py    Ctrl-C, once and twice
"""
