"""What `run_batch` and `ztasks run` are asked for, checked: rules, names, paths, and what excludes what."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ztasks.errors import InvalidOption
from ztasks.runs.halting import parse_limit
from ztasks.runs.record_file import Mode
from ztasks.runs.run import Rules
from ztasks.units import parse_flag, shown

if TYPE_CHECKING:
    from ztasks.runs.batch import Output


def mode_of(*, resume: bool, append: bool, overwrite: bool) -> Mode:
    """Return how the output is opened; raises InvalidOption if it is said in two ways."""
    wanted = {"resume": resume, "append": append, "overwrite": overwrite}
    chosen = [name for name, value in wanted.items() if parse_flag(value, name)]
    if len(chosen) > 1:
        raise InvalidOption(f"{' and '.join(chosen)} exclude each other: give one of them")
    return chosen[0] if chosen else "new"  # type: ignore[return-value]


def rules_of(max_failures: Any, halt: Any, strict: Any, skip_failed: Any, logs_dir: Any, pickle: Any) -> Rules:
    """Return the rules of a run; raises InvalidOption."""
    if halt not in ("soon", "now"):
        raise InvalidOption(f"halt must be 'soon' or 'now', not {shown(halt)}")
    return Rules(
        parse_limit(max_failures, "max_failures"),
        halt,
        parse_flag(strict, "strict"),
        skip_failed=parse_flag(skip_failed, "skip_failed"),
        logs=path_of(logs_dir, "logs_dir"),
        pickles=path_of(pickle, "pickle"),
    )


def path_of(value: Any, what: str) -> str | None:
    """Return a path as text; raises InvalidOption."""
    if value is None:
        return None
    try:
        path = os.fsdecode(value)
    except Exception as error:
        raise InvalidOption(f"{what} must be a path, not {shown(value)}") from error
    if not path or "\0" in path:
        raise InvalidOption(f"{what} must be a path, not {shown(value)}")
    return path


def names_of(value: Any, what: str) -> dict[str, Any]:
    """Return a mapping of names; raises InvalidOption."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise InvalidOption(f"{what} must be a dict with names as keys, not {shown(value)}")
    return dict(value)


def check_together(output: Output, rules: Rules) -> None:
    """Refuse what needs something else; raises InvalidOption."""
    if output.path is None and output.mode != "new":
        raise InvalidOption(f"{output.mode}=True needs the file: give output")
    if rules.skip_failed and output.mode != "resume":
        raise InvalidOption("skip_failed=True is for resume=True")
    check_pickles(output.path, rules.pickles)


def check_pickles(output: str | None, pickles: str | None) -> None:
    """Refuse one file for both; raises InvalidOption."""
    if output is not None and pickles is not None and os.path.realpath(output) == os.path.realpath(pickles):
        raise InvalidOption(f"{output} cannot hold both records and pickled results: give another name for these")
