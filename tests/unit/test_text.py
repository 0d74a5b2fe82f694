"""Durations, rates and values, as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztasks.runs.text import call_text, duration_text, input_text, one_line, rate_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 us"),
        (0.00048, "480 us"),
        (0.035, "35 ms"),
        (0.9999, "1.0 s"),
        (1.24, "1.2 s"),
        (9.96, "10 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (100_000, "27 h 46 min"),
    ],
)
def test_durations_for_reading(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_rates_for_reading() -> None:
    assert [rate_text(rate) for rate in (51200.4, 12.0, 4.12, 0.2)] == ["51,200/s", "12/s", "4.1/s", "12.0/min"]


def test_text_of_others_stays_on_its_line() -> None:
    assert one_line(" a\nb\x1b[31m\udcff ", 50) == r"a\nb\x1b[31m\udcff"
    assert one_line("x" * 1000, 11) == "xxxx...xxxx"
    assert input_text({"a": [1]}) == "{'a': [1]}"
    assert input_text("") == "''"


@given(st.text(st.characters(codec=None)), st.integers(10, 100))
def test_any_text_is_one_line_of_a_terminal(text: str, length: int) -> None:
    shown = one_line(text, length)
    assert shown.isprintable()
    assert len(shown) <= length


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_calls_as_they_would_be_written() -> None:
    assert call_text("measure", (), {}) == "measure()"
    assert call_text("measure", ("a.py", 3), {"deep": True, "sizes": [1]}) == "measure('a.py', 3, deep=True, sizes=[1])"


def test_values_without_a_repr_do_no_harm() -> None:
    assert call_text("f", (Broken(),), {"x": Broken()}) == "f(<Broken>, x=<Broken>)"
    assert input_text(Broken()) == "<Broken>"
