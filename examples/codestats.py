"""Statistics on Python source files: `ztasks run examples/codestats.py:measure --glob 'src/**/*.py' -o stats.jsonl`.

A file that does not parse raises SyntaxError, which becomes a failed record; the other files are not affected.
"""

import ast
import io
import tokenize
import warnings
from typing import Any


def measure(path: str) -> dict[str, Any]:
    """Count the lines, functions and classes of one source file; raises SyntaxError if it does not parse."""
    with open(path, "rb") as file:
        source = file.read()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a file has odd escape sequences is not asked here
        tree = ast.parse(source, path)
    lines, blank, comment = count_lines(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    longest = max(functions, key=length, default=None)
    return {
        "lines": lines,
        "blank": blank,
        "comment": comment,
        "code": lines - blank - comment,
        "functions": len(functions),
        "classes": sum(isinstance(node, ast.ClassDef) for node in ast.walk(tree)),
        "longest_function": longest and {"name": longest.name, "line": longest.lineno, "lines": length(longest)},
    }


def count_lines(source: bytes) -> tuple[int, int, int]:
    """Return how many lines there are, how many of them are blank, and how many hold only a comment."""
    lines = source.splitlines()
    blank = sum(not line.strip() for line in lines)
    comment = 0
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip():
            comment += 1
    return len(lines), blank, comment


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines a function has, decorators not counted."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


if __name__ == "__main__":
    import json
    import sys

    for argument in sys.argv[1:] or [__file__]:
        print(json.dumps({argument: measure(argument)}))
