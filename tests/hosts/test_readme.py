"""The README's program for many hosts runs as it stands, with the workers of a head."""

import re
from pathlib import Path

import pytest
import support
from fleet import Fleet

ROOT = Path(__file__).parents[2]
(CODE,) = [
    code
    for code in re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    if "ztasks.Client(" in code
]


def test_the_program_runs_on_the_workers_of_a_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fleet").mkdir()
    with Fleet(tmp_path / "fleet") as fleet:
        fleet.start_head()
        fleet.start_foreman("one", workers=1)
        monkeypatch.setenv("ZTASKS_HEAD", fleet.join("client"))
        out = support.check_script(tmp_path, CODE, cwd=tmp_path)
    first, second, job, root = out.splitlines()
    assert (first, second) == (str(len(str(3**1000))), str(len(str(3**2000))))
    assert re.fullmatch(r"[0-9a-f]{16}-\d+", job)
    assert root.startswith("1.414")
