"""Files of pickled results: what is saved comes back, whatever a kill or a full disk has left."""

import errno
import os
import pickle
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ztasks.runs import pickles
from ztasks.runs.output import write_all
from ztasks.runs.pickles import BadPickles, PickleFile, read_pickles

KEYS = [f"{number:016x}" for number in range(10)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.pickle"


def save(path: Path, *entries: tuple[str, object]) -> None:
    file = PickleFile(str(path))
    try:
        for key, value in entries:
            file.add(key, value)
    finally:
        file.close()


def read(path: Path) -> list[tuple[str, Any]]:
    return list(read_pickles(path))


# --- there and back ---


def test_results_come_back_in_their_order(path: Path) -> None:
    save(path, (KEYS[0], 1j), (KEYS[1], {"a": {1, 2}}), (f"{KEYS[0]}-2", None))
    assert read(path) == [(KEYS[0], 1j), (KEYS[1], {"a": {1, 2}}), (f"{KEYS[0]}-2", None)]


def test_what_is_pickled_by_value_comes_back(path: Path) -> None:
    def local(n: int) -> int:
        return n * 2

    save(path, (KEYS[0], local))
    [(key, found)] = read(path)
    assert (key, found(4)) == (KEYS[0], 8)


@pytest.mark.parametrize("size", [10, 8191, 8192, 8193, 500_000])
def test_arrays_come_back_small_and_large(path: Path, size: int) -> None:
    """From 64 KiB on they have buffers of their own."""
    np = pytest.importorskip("numpy")
    arrays = {"one": np.arange(size, dtype="f8"), "two": np.ones((2, size), order="F")}
    save(path, (KEYS[0], arrays), (KEYS[1], "behind"))
    (key, found), behind = read(path)
    assert key == KEYS[0]
    assert all((found[name] == array).all() for name, array in arrays.items())
    assert found["two"].flags.f_contiguous
    found["one"][0] = 5  # it can be written to
    assert behind == (KEYS[1], "behind")


def test_a_later_run_adds_to_it(path: Path) -> None:
    for number in range(3):
        save(path, (KEYS[number], number))
    assert read(path) == [(KEYS[number], number) for number in range(3)]


def test_what_was_saved_is_counted(path: Path) -> None:
    file = PickleFile(str(path))
    assert file.saved == 0
    file.add(KEYS[0], 1)
    file.add(KEYS[1], 2)
    assert file.saved == 2
    file.close()
    file.close()


# --- opening ---


def test_it_is_made_when_the_first_result_comes_and_for_this_user_only(path: Path) -> None:
    file = PickleFile(str(path))
    assert not path.exists()
    file.add(KEYS[0], 1j)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    file.close()


def test_a_file_that_was_opened_for_nothing_goes_again(path: Path) -> None:
    PickleFile(str(path), opened=True).close()
    assert not path.exists()
    save(path, (KEYS[0], 1))
    PickleFile(str(path), opened=True).close()
    assert read(path) == [(KEYS[0], 1)]


def test_a_file_that_the_other_run_removes_meanwhile_is_not_written_to(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = pickles.fcntl.flock

    def wait_and_lock(file: int, how: int) -> None:
        path.unlink()
        lock(file, how)

    monkeypatch.setattr(pickles.fcntl, "flock", wait_and_lock)
    with pytest.raises(BadPickles, match="has just been removed by another run: try again"):
        PickleFile(str(path), opened=True)


def test_a_wrong_path_is_told_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(BadPickles, match=r"cannot write .*missing/x: No such file or directory. Nothing was run"):
        PickleFile(str(tmp_path / "missing" / "x"), opened=True)
    with pytest.raises(BadPickles, match="Is a directory"):
        PickleFile(str(tmp_path), opened=True)
    with pytest.raises(FileNotFoundError):
        PickleFile(str(tmp_path / "missing" / "x")).add(KEYS[0], 1)


def test_two_runs_do_not_write_to_one_file(path: Path) -> None:
    first = PickleFile(str(path), opened=True)
    with pytest.raises(BadPickles, match="is being written by another run"):
        PickleFile(str(path), opened=True)
    second = PickleFile(str(path))
    with pytest.raises(BadPickles, match="is being written by another run"):
        second.add(KEYS[0], 1)
    first.add(KEYS[0], 1)
    first.close()
    second.add(KEYS[1], 2)
    second.close()
    assert read(path) == [(KEYS[0], 1), (KEYS[1], 2)]


OTHERS = [
    b"a night's work\n",
    b'{"v":1,"index":0}\n',
    b"\0" * 100,
    pickle.dumps({"model": [1, 2]}, 5),
    pickle.dumps(("x" * 16, 5, []), 4),
    pickle.dumps(KEYS[0], 5),
    pickle.dumps((KEYS[0], Path("x")), 5),
    pickle.dumps(("d41d8cd98f00b204e9800998ecf8427e", "x"), 5)[:50],
    pickle.dumps(Path("x"), 5),
    pickle.dumps([KEYS[0], b"data", []], 2),
    b"\x93NUMPY\x01\x00",
    b"PK\x03\x04",
    b".",
    b"\x80\x05\x95" + b"\xff" * 8 + b"garbage of some length",
    b"\x96" + b"\xff" * 8,
]


@pytest.mark.parametrize("data", OTHERS)
def test_a_file_that_is_something_else_is_refused_and_stays(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(BadPickles, match="holds something else than pickled results: give another name"):
        PickleFile(str(path), opened=True)
    assert path.read_bytes() == data
    assert read(path) == []


@given(st.binary(max_size=60))
@example(b"\x96" + b"\xff" * 8)
@example(b"\x8e" + b"\xff" * 8)
@example(b"r\xff\xff\xff\x0f.")
def test_any_bytes_are_refused_or_taken_but_never_an_accident(data: bytes) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, data)
    os.close(write_end)
    with open(read_end, "rb") as stream:
        assert all(isinstance(entry, tuple) for entry in pickles._entries(stream))


class Bomb:
    """Its unpickling runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.abort, ()


@pytest.mark.parametrize(
    "entry",
    [Bomb(), (KEYS[0], Bomb(), []), (Bomb(), b"data", []), (KEYS[0], b"data", [Bomb()])],
)
def test_looking_through_a_file_runs_no_code(path: Path, entry: Any) -> None:
    path.write_bytes(pickle.dumps(entry, 4))
    with pytest.raises(BadPickles):
        PickleFile(str(path), opened=True)
    assert read(path) == []


def test_a_result_whose_unpickling_runs_code_is_kept_without_running_it(path: Path) -> None:
    save(path, (KEYS[0], Bomb()), (KEYS[1], 1))
    save(path, (KEYS[2], 2))
    with open(path, "rb") as stream:
        assert [entry[0] for entry in pickles._entries(stream)] == KEYS[:3]


# --- torn ---


@pytest.fixture
def whole(path: Path) -> bytes:
    save(path, (KEYS[0], 1j))
    return path.read_bytes()


def test_a_torn_last_entry_is_cut_wherever_it_is_torn(path: Path, whole: bytes) -> None:
    save(path, (f"{KEYS[1]}-12", {"a": [1, "two", b"3"]}))
    last = path.read_bytes()[len(whole) :]
    for torn in range(len(last)):
        path.write_bytes(whole + last[:torn])
        assert read(path) == [(KEYS[0], 1j)]
        save(path, (KEYS[2], "new"))
        assert read(path) == [(KEYS[0], 1j), (KEYS[2], "new")], torn


def test_a_torn_first_entry_is_cut_wherever_it_is_torn(path: Path, whole: bytes) -> None:
    for torn in range(len(whole)):
        path.write_bytes(whole[:torn])
        assert read(path) == []
        save(path, (KEYS[2], "new"))
        assert read(path) == [(KEYS[2], "new")], torn


def test_a_large_entry_may_be_torn_in_any_of_its_parts(path: Path, whole: bytes) -> None:
    np = pytest.importorskip("numpy")
    save(path, (KEYS[1], [np.arange(20_000), "x" * 100_000]))
    last = path.read_bytes()[len(whole) :]
    assert len(last) > 250_000
    for torn in [*range(0, len(last), 9973), *range(len(last) - 40, len(last))]:
        for before, expected in ((whole, [(KEYS[0], 1j)]), (b"", [])):
            path.write_bytes(before + last[:torn])
            file = PickleFile(str(path), opened=True)
            assert path.read_bytes() == before
            assert read(path) == expected
            file.close()


# --- writing that fails ---


def test_after_a_write_that_failed_the_file_ends_with_a_whole_entry(
    path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_half(file: int, data: bytes) -> None:
        write_all(file, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    file = PickleFile(str(path))
    with monkeypatch.context() as patch:
        patch.setattr(pickles, "write_all", write_half)
        with pytest.raises(OSError, match="No space left"):
            file.add(KEYS[1], 2j)
    assert path.read_bytes() == whole
    assert file.saved == 0
    file.add(KEYS[2], 3j)
    file.close()
    assert read(path) == [(KEYS[0], 1j), (KEYS[2], 3j)]


def test_what_cannot_be_pickled_leaves_the_file_alone(path: Path, whole: bytes) -> None:
    file = PickleFile(str(path))
    with pytest.raises(TypeError):
        file.add(KEYS[1], [iter_ := (each for each in ""), iter_])
    assert path.read_bytes() == whole
    file.add(KEYS[1], 2j)
    file.close()
    assert read(path) == [(KEYS[0], 1j), (KEYS[1], 2j)]


def test_a_result_that_cannot_be_loaded_raises_what_its_loading_raises(path: Path) -> None:
    class Fails:
        def __reduce__(self) -> tuple[Any, ...]:
            return int, ("x",)

    save(path, (KEYS[0], 1), (KEYS[1], Fails()))
    reader = read_pickles(path)
    assert next(reader) == (KEYS[0], 1)
    with pytest.raises(Exception, match=r"invalid literal for int"):
        next(reader)


def test_a_missing_file_is_told(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(path)
