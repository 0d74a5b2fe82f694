"""The chaos test's plan: the seed decides all of it, today and on every Python; amounts are read as they are meant."""

import re
from collections.abc import Callable
from itertools import islice, takewhile
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztasks.chaos.__main__ import EPILOG, command
from ztasks.chaos.plan import (
    CLOSING_SECONDS,
    DEFAULTS,
    JOB_FAULTS,
    MILD,
    PAUSES,
    PHASES,
    SHORTHANDS,
    SIZES,
    SLEEPS,
    STRIKES,
    Amount,
    Plan,
    Strike,
    _sample,
    parse_faults,
)
from ztasks.chaos.tally import CAUSES
from ztasks.errors import InvalidOption

EVERYTHING = "kill=5,freeze=3,fail=5%,exit=2%,segfault=2%,hang=1%,slow=3%,large=3%"
seeds = st.integers(0, 2**64)


def plan(seed: int = 1, jobs: int = 1000, faults: str = EVERYTHING) -> Plan:
    return Plan(seed, jobs, parse_faults(faults))


def everything(planned: Plan) -> object:
    return planned.job_faults, list(islice(planned.strikes(), 50)), planned.closing, planned.closes_early


# --- the seed ---


@given(seeds, st.integers(1, 300))
def test_one_seed_one_plan(seed: int, jobs: int) -> None:
    assert everything(plan(seed, jobs)) == everything(plan(seed, jobs))


def test_another_seed_another_plan() -> None:
    assert len({repr(everything(plan(seed))) for seed in range(50)}) == 50


def test_the_plan_of_seed_7_is_always_this() -> None:
    """On every version of Python: a seed in a report must mean the same later."""
    planned = plan(7, 1000, "kill=2,freeze=1,fail=3,exit=2,slow=2")
    kinds = {number: [(fault.kind, fault.late) for fault in faults] for number, faults in planned.job_faults.items()}
    assert kinds == {
        13: [("slow", True)],
        210: [("slow", False)],
        518: [("fail", True), ("fail", True), ("fail", True)],
        654: [("exit", True), ("exit", False)],
        762: [("fail", False), ("fail", False)],
        941: [("fail", False)],
        946: [("exit", True), ("exit", False)],
    }
    assert planned.job_faults[13][0].amount == pytest.approx(0.4314856, abs=1e-6)
    strikes = [(strike.kind, strike.phase, round(strike.at, 3)) for strike in islice(planned.strikes(), 4)]
    assert strikes == [
        ("freeze", "returned", 0.274),
        ("kill", "starting", 0.88),
        ("kill", "running", 0.985),
        ("kill", "starting", 1.064),
    ]
    assert not planned.closes_early


@given(seeds, st.sampled_from(JOB_FAULTS))
def test_one_kind_of_job_fault_more_leaves_the_others_as_they_were(seed: int, kind: str) -> None:
    others = {name: amount for name, amount in parse_faults(EVERYTHING).items() if name != kind}
    fewer, more = Plan(seed, 500, others), plan(seed, 500)
    kept = {
        number: rest
        for number, faults in more.job_faults.items()
        if (rest := tuple(fault for fault in faults if fault.kind != kind))
    }
    assert fewer.job_faults == kept
    assert list(islice(fewer.strikes(), 20)) == list(islice(more.strikes(), 20))


def test_one_kind_of_strike_more_leaves_the_others_as_they_were() -> None:
    kills = [strike for strike in islice(plan(faults="kill=5,freeze=3").strikes(), 100) if strike.kind == "kill"]
    assert kills == list(islice(plan(faults="kill=5").strikes(), len(kills)))


# --- strikes ---


@given(seeds)
def test_strikes_come_in_order_and_within_their_bounds(seed: int) -> None:
    strikes = list(islice(plan(seed).strikes(), 200))
    assert strikes == sorted(strikes, key=lambda strike: strike.at)
    assert {strike.kind for strike in strikes} == set(STRIKES)
    assert all(strike.phase in PHASES and 0 <= strike.pick < 1 for strike in strikes)
    pauses = {strike.kind: [other.pause for other in strikes if other.kind == strike.kind] for strike in strikes}
    assert set(pauses["kill"]) == {0.0}
    assert all(PAUSES[0] <= pause <= PAUSES[1] for pause in pauses["freeze"])


def test_as_many_strikes_as_asked_for_at_all_phases() -> None:
    strikes = list(takewhile(lambda strike: strike.at < 1000, plan(faults="kill=5,freeze=0.5").strikes()))
    kills = [strike for strike in strikes if strike.kind == "kill"]
    assert 4800 < len(kills) < 5200
    assert 430 < len(strikes) - len(kills) < 570
    whole = sum(PHASES.values())
    for phase, weight in PHASES.items():
        share = sum(strike.phase == phase for strike in kills) / len(kills)
        assert share == pytest.approx(weight / whole, rel=0.2)


@given(seeds, st.floats(0.1, 30))
def test_there_are_never_more_kills_than_the_bound_says(seed: int, seconds: float) -> None:
    planned = plan(seed, faults="kill=20")
    kills = list(takewhile(lambda strike: strike.at < seconds, planned.strikes()))
    assert len(kills) + len(planned.closing) <= planned.most_strikes("kill", seconds)


def test_no_strikes_where_none_are_wanted() -> None:
    assert list(plan(faults="fail=3").strikes()) == []
    assert plan(faults="fail=3").closing == ()
    assert plan(faults="none").job_faults == {}


def test_the_closing_is_struck_in_half_of_the_plans() -> None:
    closings = [plan(seed, faults="kill=1").closing for seed in range(200)]
    struck: list[Strike] = [strike for closing in closings for strike in closing]
    assert 70 < len(struck) < 130
    assert all(strike.kind == "kill" and 0 <= strike.at < CLOSING_SECONDS for strike in struck)
    assert 70 < sum(plan(seed).closes_early for seed in range(200)) < 130


# --- faults of jobs ---


@given(seeds, st.integers(1, 400))
def test_so_many_jobs_have_so_many_faults(seed: int, jobs: int) -> None:
    planned = plan(seed, jobs, "fail=10%,segfault=3,large=0.1%,slow=100%")
    having = {
        kind: {number for number, faults in planned.job_faults.items() if any(fault.kind == kind for fault in faults)}
        for kind in JOB_FAULTS
    }
    assert len(having["fail"]) == -(-jobs // 10)
    assert len(having["segfault"]) == min(3, jobs)
    assert len(having["large"]) == 1
    assert len(having["slow"]) == jobs
    assert not having["exit"]
    assert all(0 <= number < jobs for numbers in having.values() for number in numbers)
    assert planned.count("slow") == jobs
    assert len(having["fail"]) <= planned.count("fail") <= 3 * len(having["fail"])


@given(seeds)
def test_what_lets_a_job_end_well_comes_last(seed: int) -> None:
    planned = plan(seed, 60, "fail=50%,exit=50%,segfault=50%,hang=50%,slow=50%,large=50%")
    for faults in planned.job_faults.values():
        mild = [fault.kind in MILD for fault in faults]
        assert mild == sorted(mild)
        assert len({fault.kind for fault in faults if fault.kind in MILD}) == sum(mild)


@given(seeds)
def test_the_most_faults_of_one_job(seed: int) -> None:
    planned = plan(seed, 60, "fail=50%,exit=50%,segfault=50%,slow=50%,large=50%")
    for kinds in (("fail",), ("exit", "segfault"), ("hang",)):
        most = max(sum(fault.kind in kinds for fault in faults) for faults in planned.job_faults.values())
        assert planned.most(*kinds) == most  # type: ignore[arg-type]
    assert planned.most("fail") <= 3
    assert planned.most("exit", "segfault") <= 4
    sizes = [fault.amount for faults in planned.job_faults.values() for fault in faults if fault.kind == "large"]
    sleeps = [fault.amount for faults in planned.job_faults.values() for fault in faults if fault.kind == "slow"]
    assert all(SIZES[0] <= size <= SIZES[1] and size == int(size) for size in sizes)
    assert all(SLEEPS[0] <= seconds <= SLEEPS[1] for seconds in sleeps)


@given(st.integers(0, 200), st.data(), seeds)
def test_samples_are_different_numbers(of: int, data: st.DataObject, seed: int) -> None:
    wanted = data.draw(st.integers(0, of))
    chance: Callable[[], float] = Random(seed).random
    sample = _sample(chance, of, wanted)
    assert len(set(sample)) == len(sample) == wanted
    assert all(0 <= number < of for number in sample)


# --- amounts ---


@pytest.mark.parametrize(
    ("text", "amounts"),
    [
        ("kill=2", {"kill": Amount(2.0)}),
        ("kill=2/s, freeze = 0.5", {"kill": Amount(2.0), "freeze": Amount(0.5)}),
        ("fail=1%", {"fail": Amount(0.01, share=True)}),
        ("fail=5", {"fail": Amount(5.0)}),
        ("crash=1%", {"exit": Amount(0.01, share=True), "segfault": Amount(0.01, share=True)}),
        ("kill,kill=3", {"kill": Amount(3.0)}),
        ("all,kill=0", {kind: amount for kind, amount in parse_faults("all").items() if kind != "kill"}),
        ("none", {}),
        ("", {}),
        ("fail=0%", {}),
    ],
)
def test_amounts(text: str, amounts: dict[str, Amount]) -> None:
    assert parse_faults(text) == amounts


def test_all_means_all() -> None:
    assert parse_faults("all").keys() == {*STRIKES, *JOB_FAULTS}
    defaults = parse_faults(DEFAULTS)
    assert parse_faults(",".join(defaults)) == defaults
    assert defaults.keys() == {*STRIKES, *JOB_FAULTS} - {"hang"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("meteor", "there is no fault 'meteor'"),
        ("kill=", "does not say how much: write for example kill=2"),
        ("kill=2%", "kill=2% does not say how much"),
        ("kill=-1", "does not say how much"),
        ("kill=1001", "at most 1000 per second"),
        ("fail=2/s", "write for example fail=5 or fail=1%"),
        ("fail=1.5", "does not say how much"),
        ("fail=101%", "at most 100%"),
        ("fail=nan", "does not say how much"),
        ("fail=1e3", "does not say how much"),
    ],
)
def test_amounts_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        parse_faults(text)


# --- the documentation ---


def test_the_help_names_all_faults_and_the_defaults() -> None:
    assert DEFAULTS in EPILOG
    assert all(kind in EPILOG for kind in (*STRIKES, *JOB_FAULTS, *SHORTHANDS, "none"))


def test_the_page_names_all_faults_options_exit_codes_and_causes() -> None:
    page = (Path(__file__).parents[2] / "docs" / "chaos.md").read_text()
    flags = {flag for parameter in command.params for flag in parameter.opts if flag.startswith("--")}
    assert {flag for flag in flags if not re.search(rf"`{flag}\b", page)} == set()
    assert DEFAULTS in page
    assert {kind for kind in (*STRIKES, *JOB_FAULTS, *SHORTHANDS) if f"`{kind}`" not in page} == set()
    told = set(re.findall(r"^  (\d+) ", EPILOG, re.MULTILINE))
    assert set(re.findall(r"^\| (\d+) \|", page, re.MULTILINE)) == told
    assert {cause for cause in CAUSES if cause.removesuffix(" as planned") not in page} == set()
