"""One word, one meaning: what is defined in ztasks bears the words of the glossary, not their usual synonyms."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ztasks"

SYNONYMS = {
    "broker": "there is none: head",
    "chunk": "slice or batch",
    "shard": "slice",
    "scheduler": "ventilator",
    "dispatcher": "ventilator",
    "collector": "sink",
    "supervisor": "crew",
    "manager": "crew or head",
    "pool": "crew",
    "controller": "head",
    "master": "head",
    "coordinator": "head",
    "slave": "worker",
    "subprocesses": "crew",
    "node": "host",
    "machine": "host",
    "agent": "foreman",
    "daemon": "head or foreman",
    "heartbeat": "there is none between a worker and its parent",
    "try": "attempt",
    "tries": "attempts",
    "logbook": "journal",
    "util": "what it is for",
    "utils": "what it is for",
    "helper": "what it is for",
    "helpers": "what it is for",
    "misc": "what it is for",
}
"""Words that no name holds as one of its parts, and what to say instead."""

BETWEEN_HOSTS = {
    "chunk": ("wire/link.py", "wire/link_codec.py", "core/link.py", "io/service.py", "io/foreman.py"),
    "heartbeat": ("wire/link.py", "core/link.py", "core/joining.py", "io/service.py", "io/terms.py"),
}
"""Words that have a meaning of their own on a link between hosts, and where."""


def defined(tree: ast.AST) -> Iterator[str]:
    """Names of functions, classes, parameters and attributes, and of what stands at the top of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        if isinstance(node, ast.Module | ast.ClassDef):
            for child in node.body:
                targets = [child.target] if isinstance(child, ast.AnnAssign) else getattr(child, "targets", [])
                yield from (target.id for target in targets if isinstance(target, ast.Name))


def words(name: str) -> list[str]:
    """The parts of a name in snake_case or CamelCase."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


@pytest.mark.parametrize("module", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_names(module: Path) -> None:
    names = {module.stem, *defined(ast.parse(module.read_text()))}
    where = str(module.relative_to(PACKAGE))
    wrong = {
        name: SYNONYMS[word]
        for name in names
        for word in words(name)
        if word in SYNONYMS and where not in BETWEEN_HOSTS.get(word, ())
    }
    assert wrong == {}, "say instead"


def test_the_rule_sees_all_kinds_of_names() -> None:
    source = """
class NodeBook: chunk_size: int = 0
def f(self, master): self._pool = 1
HELPER = 3
"""
    assert {word for name in defined(ast.parse(source)) for word in words(name)} >= {
        "node", "chunk", "master", "pool", "helper",
    }  # fmt: skip


def test_the_glossary_has_no_synonym_of_its_own() -> None:
    heads = re.findall(r"^\| ([a-z ]+) \|", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    assert "ventilator" in heads
    assert not set(heads) & (SYNONYMS.keys() - BETWEEN_HOSTS.keys())
