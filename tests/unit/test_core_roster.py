"""The roster: one name is one foreman, names and sessions belong to keys, and lanes are never used again."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztasks.core.roster import LANES_PER_EPOCH, Admission, Roster
from ztasks.errors import WireError
from ztasks.wire.link import MAX_NAMES, PROTOCOL, Hello, Reject
from ztasks.wire.link_codec import MAX_SLOTS, MAX_TEXT

KEY, OTHER_KEY = "k" * 40, "o" * 40

FOREMAN = Hello("foreman", "left", 11, 0, PROTOCOL, "1.0", "3.11", host="alpha", slots=4, started=1000.0)
CLIENT = Hello("client", "a script", 77, 0, PROTOCOL, "1.0", "3.11", started=1000.0)

change = msgspec.structs.replace


def admit(roster: Roster, hello: Hello, key: str = KEY) -> Admission:
    admission = roster.on_hello(hello, key)
    assert isinstance(admission, Admission), admission
    return admission


def refuse(roster: Roster, hello: Hello, key: str = KEY) -> Reject:
    before = dict(roster.members)
    reject = roster.on_hello(hello, key)
    assert isinstance(reject, Reject), reject
    assert reject.incarnation == hello.incarnation
    assert roster.members == before, "whoever is refused changes nothing"
    return reject


@pytest.mark.parametrize("hello", [FOREMAN, CLIENT])
def test_a_greeting_that_is_repeated_gets_the_same_lane(hello: Hello) -> None:
    roster = Roster(3, "1.0")
    first = admit(roster, hello)
    assert first.new
    assert first.replaced is None
    assert first.member.lane > 3 * LANES_PER_EPOCH
    again = admit(roster, hello)
    assert (again.member, again.new, again.replaced) == (first.member, False, None)
    assert list(roster.members.values()) == [first.member]


@pytest.mark.parametrize("hello", [FOREMAN, CLIENT])
def test_who_has_given_a_lane_up_gets_another(hello: Hello) -> None:
    roster = Roster(3, "1.0")
    first = admit(roster, hello).member
    second = admit(roster, change(hello, after=first.lane))
    assert second.new
    assert second.replaced == first
    assert second.member.lane > first.lane
    assert list(roster.members) == [second.member.lane]
    late = admit(roster, hello)
    assert (late.member, late.new) == (second.member, False), "a greeting that was long under way changes nothing"


def test_a_lane_that_is_void_is_never_used_again() -> None:
    roster = Roster(3, "1.0")
    lanes = []
    for _ in range(5):
        lanes.append(admit(roster, FOREMAN).member.lane)
        assert roster.remove(lanes[-1]) is not None
        assert roster.remove(lanes[-1]) is None
    assert lanes == sorted(set(lanes))
    assert admit(Roster(4, "1.0"), FOREMAN).member.lane > lanes[-1]
    assert roster.members == {}


def test_runs_of_one_epoch_are_told_apart_by_their_lanes() -> None:
    first, second = (admit(Roster(4, "1.0", offset), FOREMAN).member.lane for offset in (7, 300))
    assert first != second
    assert max(first, second) < admit(Roster(5, "1.0"), FOREMAN).member.lane


def test_a_head_whose_clock_was_put_back_gives_out_lanes_that_are_new_to_its_peers() -> None:
    before = admit(Roster(200, "1.0"), FOREMAN).member.lane
    roster = Roster(100, "1.0")
    again = admit(roster, change(FOREMAN, after=before)).member.lane
    assert again > before
    assert admit(roster, change(FOREMAN, name="another", incarnation=99)).member.lane > again
    with pytest.raises(WireError):
        roster.on_hello(change(FOREMAN, name="greedy", incarnation=98, after=1 << 62), KEY)


def test_lanes_stay_within_what_the_wire_carries() -> None:
    seconds_in_the_year_2100 = 4_102_444_800
    assert (seconds_in_the_year_2100 + 1) * LANES_PER_EPOCH < 2**63


def test_a_client_is_found_by_its_session_and_a_foreman_is_none() -> None:
    roster = Roster(1, "1.0")
    admit(roster, FOREMAN)
    client = admit(roster, CLIENT).member
    assert roster.client(77) == client
    assert roster.client(11) is None
    roster.remove(client.lane)
    assert roster.client(77) is None


def test_a_message_counts_only_with_the_key_that_its_lane_was_given_to() -> None:
    roster = Roster(1, "1.0")
    member = admit(roster, FOREMAN).member
    assert roster.of_sender(member.lane, KEY) == member
    assert roster.of_sender(member.lane, OTHER_KEY) is None
    assert roster.of_sender(member.lane, "") is None
    assert roster.of_sender(member.lane + 1, KEY) is None


# --- who is refused ---


@pytest.mark.parametrize("protocol", [PROTOCOL - 1, PROTOCOL + 1, -1, 2**63])
def test_row_33_another_protocol_is_refused_with_both_versions(protocol: int) -> None:
    roster = Roster(1, "1.0")
    reject = refuse(roster, change(FOREMAN, protocol=protocol, ztasks="0.7"))
    assert reject.code == "protocol"
    for told in (
        f"protocol {protocol}",
        "ztasks 0.7 on alpha",
        f"protocol {PROTOCOL}",
        "ztasks 1.0",
        "install the same",
    ):
        assert told in reject.why


def test_row_33_another_protocol_is_refused_whatever_else_is_in_the_greeting() -> None:
    strange = change(FOREMAN, protocol=PROTOCOL + 1, slots=-5, name="", host="h" * 10_000, tags=("",) * 1000)
    reject = refuse(Roster(1, "1.0"), strange)
    assert reject.code == "protocol"
    assert len(reject.why) < 500


def test_row_33_a_newer_incarnation_fences_the_older() -> None:
    roster = Roster(1, "1.0")
    older = admit(roster, FOREMAN).member
    newer = admit(roster, change(FOREMAN, incarnation=12, started=1001.0, host="beta"))
    assert newer.replaced == older
    assert list(roster.members.values()) == [newer.member]
    reject = refuse(roster, change(FOREMAN, after=older.lane))
    assert reject.code == "fenced"
    assert "'left' has joined from beta" in reject.why
    assert "--name" in reject.why


def test_row_33_of_two_that_started_at_the_same_time_one_gives_way() -> None:
    one, other = change(FOREMAN, incarnation=5), change(FOREMAN, incarnation=6)
    for first, second in ((one, other), (other, one)):
        roster = Roster(1, "1.0")
        admit(roster, first)
        answers = [roster.on_hello(hello, KEY) for hello in (second, first, second, first)]
        (left,) = roster.members.values()
        assert left.hello.incarnation == 6
        assert [answer.incarnation for answer in answers if isinstance(answer, Reject)][-1] == 5


def test_row_33_whoever_was_fenced_may_come_back_when_the_newer_is_gone() -> None:
    roster = Roster(1, "1.0")
    newer = admit(roster, change(FOREMAN, incarnation=12, started=1001.0)).member
    refuse(roster, FOREMAN)
    roster.remove(newer.lane)
    admit(roster, FOREMAN)


def test_row_33_a_name_with_another_key_is_refused_also_when_its_first_owner_is_gone() -> None:
    roster = Roster(1, "1.0")
    first = admit(roster, FOREMAN).member
    thief = change(FOREMAN, incarnation=99, started=9999.0)
    reject = refuse(roster, thief, OTHER_KEY)
    assert reject.code == "forbidden"
    assert "the name 'left' belongs to another key; start the worker with another --name" in reject.why
    refuse(roster, FOREMAN, OTHER_KEY)
    roster.remove(first.lane)
    assert refuse(roster, thief, OTHER_KEY).code == "forbidden"
    admit(roster, FOREMAN)
    roster.free("left")
    roster.free("left")
    roster.free("unknown")


def test_row_33_a_session_with_another_key_is_refused_also_when_its_client_is_gone() -> None:
    roster = Roster(1, "1.0")
    first = admit(roster, CLIENT).member
    reject = refuse(roster, change(CLIENT, after=first.lane), OTHER_KEY)
    assert (reject.code, reject.why) == ("forbidden", "this session belongs to another key")
    roster.remove(first.lane)
    refuse(roster, CLIENT, OTHER_KEY)
    roster.free(77)
    admit(roster, CLIENT, OTHER_KEY)


def test_two_clients_may_have_one_name() -> None:
    roster = Roster(1, "1.0")
    admit(roster, CLIENT)
    admit(roster, change(CLIENT, incarnation=78), OTHER_KEY)
    assert len(roster.members) == 2


def test_a_head_that_is_stopping_takes_in_only_who_was_there_before() -> None:
    roster = Roster(1, "1.0")
    lane = admit(roster, FOREMAN).member.lane
    admit(roster, CLIENT)
    roster.stopping = True
    assert refuse(roster, change(FOREMAN, name="right", incarnation=12)).code == "stopping"
    assert admit(roster, change(CLIENT, incarnation=78)).new, "to ask, and to cancel"
    assert admit(roster, change(FOREMAN, after=lane)).new
    assert not admit(roster, CLIENT).new
    assert refuse(roster, change(FOREMAN, name="right", incarnation=12), OTHER_KEY).code == "stopping"


@pytest.mark.parametrize(
    "changes",
    [
        {"slots": -1},
        {"slots": MAX_SLOTS + 1},
        {"name": ""},
        {"name": "n" * (MAX_TEXT + 1)},
        {"host": "h" * (MAX_TEXT + 1)},
        {"ztasks": "v" * (MAX_TEXT + 1)},
        {"python": "3" * (MAX_TEXT + 1)},
        {"queues": tuple(map(str, range(MAX_NAMES + 1)))},
        {"queues": ("",)},
        {"tags": ("t" * 129,)},
        {"resources": {"": 1}},
        {"resources": {"gpu": -1}},
        {"resources": {str(number): 1 for number in range(MAX_NAMES + 1)}},
        {"incarnation": -1},
        {"after": -1},
        {"started": -1.0},
        {"started": float("nan")},
        {"started": float("inf")},
    ],
)
def test_greetings_that_cannot_be(changes: dict[str, Any]) -> None:
    roster = Roster(1, "1.0")
    with pytest.raises(WireError, match=r"greeting|must be at most"):
        roster.on_hello(change(FOREMAN, **changes), KEY)
    assert roster.members == {}
    assert admit(roster, FOREMAN, OTHER_KEY).new, "its name is not taken"


GREETINGS = st.tuples(
    st.sampled_from([FOREMAN, CLIENT]),
    st.integers(0, 3),
    st.sampled_from(["left", "right"]),
    st.sampled_from([1000.0, 1001.0]),
    st.sampled_from([KEY, OTHER_KEY]),
    st.integers(0, 6),
)


@given(st.lists(GREETINGS | st.integers(0, 5), max_size=40))
def test_any_greetings_leave_the_books_in_order(events: list[Any]) -> None:
    roster, lanes, owners = Roster(1, "1.0"), [0], dict[str | int, str]()
    for event in events:
        if isinstance(event, int):
            roster.remove(LANES_PER_EPOCH + event)
            continue
        hello, incarnation, name, started, key, after = event
        hello = change(hello, incarnation=incarnation, name=name, started=started, after=LANES_PER_EPOCH + after)
        whose = name if hello.kind == "foreman" else incarnation
        answer = roster.on_hello(hello, key)
        if isinstance(answer, Reject):
            assert answer.code == ("forbidden" if owners[whose] != key else "fenced")
            continue
        assert owners.setdefault(whose, key) == key
        assert roster.members[answer.member.lane] == answer.member
        assert answer.member.hello.incarnation == incarnation
        if answer.new:
            assert answer.member.lane > lanes[-1]
            lanes.append(answer.member.lane)
        names = [member.hello.name for member in roster.members.values() if member.hello.kind == "foreman"]
        sessions = [member.hello.incarnation for member in roster.members.values() if member.hello.kind == "client"]
        assert len(names) == len(set(names))
        assert len(sessions) == len(set(sessions))
