"""`docs/protocol.md` says what the code does: every message, its tag, its fields in order, the limits and the bytes."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest

from ztasks.core import joining
from ztasks.core import link as link_core
from ztasks.core.link import Link
from ztasks.io import answers, join, netlimits
from ztasks.wire import link, link_codec, messages, payload
from ztasks.wire.certificate import DeathCertificate
from ztasks.wire.link import Outcome, Range, Received, Welcome
from ztasks.wire.link_codec import decode_at_head, decode_at_peer, decode_from_foreman, encode
from ztasks.wire.loss import Loss
from ztasks.wire.messages import Failure
from ztasks.wire.outcomes import items_of

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "protocol.md").read_text()

STRUCTS: dict[str, type[msgspec.Struct]] = {
    name: value
    for name, value in vars(link).items()
    if isinstance(value, type) and issubclass(value, msgspec.Struct) and value is not messages.Struct
}
"""All that a message can be, or hold."""

DIRECTIONS = {
    "client to head": link.FromClient,
    "head to client": link.ToClient,
    "head to foreman": link.ToForeman,
    "foreman to head": link.FromForeman,
}

MODULES = (join, netlimits, joining, link_core, payload, messages, link_codec, link)
"""Where limits stand; of two with one name the later counts."""


def sections() -> dict[str, str]:
    """The text under each heading of the third level."""
    parts = re.split(r"^### (.+)\n", TEXT, flags=re.MULTILINE)
    return {
        title: re.split(r"^## ", body, flags=re.MULTILINE)[0]
        for title, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def told(kind: Any) -> str:
    """A type, as the document writes it."""
    origin = get_origin(kind)
    if kind is Any:
        return "any"
    if kind is NoneType:
        return "nil"
    if kind == Range:
        return "Range"
    if origin is Literal:
        return " or ".join(f'"{value}"' for value in get_args(kind))
    if origin in (Union, UnionType):
        return " or ".join(map(told, get_args(kind)))
    if origin in (list, tuple):
        return f"[{told(get_args(kind)[0])}]"
    if origin is dict:
        return "{" + ": ".join(map(told, get_args(kind))) + "}"
    return str(kind.__name__)


def fields(struct: type[msgspec.Struct]) -> list[tuple[str, str]]:
    """Name and type of each field in the order of encoding, as the document writes them."""
    kinds = get_type_hints(struct)
    found = []
    for field in msgspec.structs.fields(struct):
        default: Any = msgspec.NODEFAULT
        if field.default is not msgspec.NODEFAULT:
            default = field.default
        elif field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        shown = (
            "" if default is msgspec.NODEFAULT else f" = {msgspec.json.encode(default).decode()}".replace("null", "nil")
        )
        found.append((field.encode_name, told(kinds[field.name]) + shown))
    return found


def rows(text: str, head: str) -> list[list[str]]:
    """The cells of the table whose first line begins so."""
    found = re.search(rf"^\| {re.escape(head)} \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert found, head
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found[1].splitlines()]


def bare(cell: str) -> str:
    """A cell without its backticks."""
    assert cell[0] == cell[-1] == "`", cell
    return cell[1:-1]


def test_the_document_has_every_message_and_nothing_else() -> None:
    with_fields = [title for title, text in sections().items() if "| field |" in text or "\nTag `" in text]
    assert sorted(with_fields) == sorted(STRUCTS)
    assert TEXT.count("| field |") == sum(bool(struct.__struct_fields__) for struct in STRUCTS.values())
    assert {"Hello", "Chunk", "Outcome", "Holding", "Failure", "Loss", "DeathCertificate"} <= STRUCTS.keys()


@pytest.mark.parametrize("name", STRUCTS)
def test_a_message_has_its_tag_and_its_fields_in_order(name: str) -> None:
    struct, text = STRUCTS[name], sections()[name]
    tag = struct.__struct_config__.tag
    assert re.findall(r"^Tag `(.+?)`", text, re.MULTILINE) == ([tag] if tag is not None else [])
    assert ("As a map" in text) != struct.__struct_config__.array_like
    table = rows(text, "field") if struct.__struct_fields__ else []
    assert [(bare(row[0]), bare(row[1])) for row in table] == fields(struct)
    assert all(len(row) == 3 and row[2] for row in table), "each field has a meaning"


def test_the_order_of_fields_is_that_of_encoding() -> None:
    for struct in STRUCTS.values():
        assert tuple(name for name, _ in fields(struct)) == struct.__struct_encode_fields__


def test_the_document_says_which_content_goes_where() -> None:
    table = {row[0]: re.findall(r"`(\w+)`", row[1]) for row in rows(TEXT, "direction")}
    assert {way: set(names) for way, names in table.items()} == {
        way: {message.__name__ for message in get_args(union)} for way, union in DIRECTIONS.items()
    }


def test_the_document_has_the_limits() -> None:
    told = {bare(row[0]): row[1] for row in rows(TEXT, "limit")}
    known = {name: getattr(module, name) for module in MODULES for name in told if hasattr(module, name)}
    assert told.keys() == known.keys()
    assert {name: value.replace(",", "") for name, value in told.items()} == {
        name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in known.items()
    }
    assert {"PROTOCOL", "CHUNK_BYTES", "WINDOW_BYTES", "HEARTBEAT", "LEASE", "MAX_ITEMS", "CHUNK_FRAMES"} <= told.keys()
    assert {"PORT_SINK", "PORT_CONTROL", "FIRST_LANE"} <= told.keys()


def test_the_document_has_every_question() -> None:
    nobody: Any = SimpleNamespace(books=None, journal=None)
    known = answers.Answers(nobody)._kinds
    assert {bare(row[0]) for row in rows(TEXT, "question")} == {"result", "retry", *known}


def test_the_document_has_every_code() -> None:
    for name in ("Reject", "Refused"):
        codes = get_args(get_type_hints(STRUCTS[name])["code"])
        assert [bare(row[0]) for row in rows(sections()[name], "code")] == list(codes)


# --- the example ---


def blocks() -> dict[str, bytes]:
    """The bytes of each block of hexadecimal digits, by its name; what stands behind two blanks is an explanation."""
    found = {}
    for name, block in re.findall(r"^```hex (\S+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL):
        assert name not in found
        found[name] = bytes.fromhex("".join(line.split("  ")[0] for line in block.splitlines()))
    return found


def example() -> tuple[Outcome, bytes]:
    """The outcome of the example, and its payload."""
    data = pickle.dumps(bytes(1_500_000), 5)
    outcome = Outcome(
        session=0x0123456789ABCDEF, numbers=7, count=1, attempt=1, form="each", sizes=[len(data)], buffers=None,
        failures=[], withheld=[], cancelled=[], started=None, seconds=None, busy=0.25, max_rss=0, host="alpha",
        pid=4711, payload=None,
    )  # fmt: skip
    return outcome, data


def messages_of_example() -> Iterator[tuple[str, Any]]:
    hello = link.Hello(
        "foreman", "alpha:4242", 0x1122334455667788, 0, link.PROTOCOL, "0.2.0", "3.11", "alpha", 4, ("default",), (),
        {"cpus": 4, "memory": 1 << 33}, 1.8e9,
    )  # fmt: skip
    yield "hello", hello
    yield "welcome", Welcome(hello.incarnation, 1_800_000_000, 1_800_000_000 * 2**30 + 1, 7073, 1.0, 10.0, True, 2**30)
    lane = 1_800_000_000 * 2**30 + 1
    end = Link(lane, 1_800_000_000, 0.0)
    end.credit = 8
    end.send([encode(link.Held([], []))])
    outcome, data = example()
    end.send([encode(outcome), data])
    yield "held", link.Held([], [])
    yield "outcome", outcome
    for name, (chunk, _) in zip(("chunk-0", "chunk-1", "chunk-2"), end.outgoing(), strict=True):
        yield name, chunk
    yield "received", Received(lane, 3, 1, False, 0)
    yield "alive", end.sign()


def test_the_bytes_are_those_of_the_messages() -> None:
    expected = {name: encode(message) for name, message in messages_of_example()}
    expected |= {"call": blocks()["call"], "callable": blocks()["callable"]}
    assert {name: data.hex(" ") for name, data in blocks().items()} == {
        name: data.hex(" ") for name, data in expected.items()
    }


def test_the_bytes_are_what_a_head_and_a_foreman_take_in() -> None:
    told, expected = blocks(), dict(messages_of_example())
    for name in ("hello", "chunk-0", "chunk-1", "chunk-2", "alive"):
        assert decode_at_head(told[name]) == expected[name]
    for name in ("welcome", "received"):
        assert decode_at_peer(told[name]) == expected[name]
    assert decode_from_foreman(told["held"]) == expected["held"]


def test_the_chunks_of_the_example_are_as_large_as_the_document_says() -> None:
    told = blocks()
    outcome, data = example()
    end = Link(1, 1, 0.0)
    end.send([told["held"]])
    end.send([told["outcome"], data])
    sizes = [[len(frame) for frame in frames] for _, frames in end.outgoing()]
    table = [[int(size.replace(",", "")) for size in row[1].split(" + ")] for row in rows(TEXT, "chunk")]
    assert table == sizes
    other = Link(1, 1, 0.0)
    contents = [other.on_chunk(chunk, frames, 0.0) for chunk, frames in end.outgoing() or _again(end)]
    whole = contents[-1]
    assert whole is not None
    assert whole.upto == 3
    items = items_of(decode_from_foreman(bytes(whole.frames[0])), whole.frames[1:])
    assert items is not None
    assert list(items.values()) == [bytes(1_500_000)]
    assert outcome.sizes == [len(data)]


def test_the_payloads_of_the_document_are_pickles() -> None:
    told = blocks()
    assert pickle.loads(told["callable"]) is math.sqrt
    assert pickle.loads(told["call"]) == ((16.0,), {})
    data = example()[1]
    for words in ("begins with `(.+?)`", "ends with `(.+?)`"):
        found = re.search(words, TEXT)
        assert found
        part = bytes.fromhex(found[1])
        assert data.startswith(part) if "begins" in words else data.endswith(part)


def _again(end: Link) -> list[Any]:
    """What a link sends when all of it has been lost."""
    end.on_received(Received(1, 0, 0, True, 0), 0.0)
    return end.outgoing()


def test_the_certificate_is_the_only_map() -> None:
    assert [name for name, struct in STRUCTS.items() if not struct.__struct_config__.array_like] == ["DeathCertificate"]
    assert {Failure, Loss, DeathCertificate} <= set(STRUCTS.values())
