"""Unit tests know no transport: what they pickle stays in plain memory, whatever other tests have imported."""

from collections.abc import Iterator

import pytest

from ztasks.wire import payload


@pytest.fixture(autouse=True, scope="module")
def _plain_memory() -> Iterator[None]:
    before = payload._hold
    payload.hold_with(bytearray)
    yield
    payload.hold_with(before)
