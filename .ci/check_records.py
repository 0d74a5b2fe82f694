"""Check the records of the README's main job: `check_records.py stats.jsonl EXITCODE [RUNS]`.

One record per file of the standard library that counts: the last one of its key. Those files failed, and only those, of
which `ast.parse` says so. After RUNS runs with --resume (default: 1), no file that succeeded has more than one record.
"""

import ast
import glob
import json
import os
import sys
import warnings


def main(path: str, code: int, runs: int = 1) -> None:
    """Compare the records with the files."""
    warnings.simplefilter("ignore")
    with open(path) as file:
        lines = [json.loads(line) for line in file]
    records = list({record["key"]: record for record in lines}.values())
    library = os.path.dirname(os.__file__)
    files = [name for name in glob.glob(f"{library}/**/*.py", recursive=True) if os.path.isfile(name)]
    assert sorted(record["input"] for record in records) == sorted(files), "not one record per file"
    failed = [record for record in records if not record["ok"]]
    assert code == (1 if failed else 0), f"exit code {code} with {len(failed)} failed records"
    assert len(lines) == len(records) + (runs - 1) * len(failed), "a file that was done has been measured again"
    for record in failed:
        assert record["status"] == "failed", record
        assert not parses(record["input"]), f"{record['input']} failed, but parses: {record['error']}"
        assert record["error"]["type"], record
    # the known culprits: whatever of these this Python has must have failed
    culprits = {name for name in files if "lib2to3/tests/data" in name or "/bad_coding" in name or "badsyntax" in name}
    missed = {name for name in culprits if not parses(name)} - {record["input"] for record in failed}
    assert not missed, f"these do not parse, yet have no failed record: {missed}"
    good = [record["result"]["lines"] for record in records if record["ok"]]
    assert good, "no file was measured"
    print(f"{len(records)} records, {len(failed)} of them failed, {sum(good)} lines; exit code {code}")
    if not failed:
        print("(every file of this Python's standard library parses, so there is no failed record)")


def parses(name: str) -> bool:
    """Tell whether a file can be parsed."""
    try:
        with open(name, "rb") as file:
            ast.parse(file.read(), name)
    except (SyntaxError, ValueError):
        return False
    return True


main(sys.argv[1], *map(int, sys.argv[2:]))
