"""What a client says when its head is not there, does not take it in, or is lost."""

from __future__ import annotations

from ztasks.errors import (
    ExecutorClosed,
    ForkedExecutor,
    HeadFull,
    HeadLost,
    InvalidOption,
    JobNotFound,
    TooLarge,
    WireError,
    ZtasksError,
)
from ztasks.io.join import JoinFile, format_address
from ztasks.wire.link import Refused, Reject


def where(join: JoinFile) -> str:
    """Return the head's address."""
    return format_address(join.address, join.ports.clients)


def no_answer(join: JoinFile, seconds: float, trouble: str) -> HeadLost:
    """No head has answered the first greeting. `trouble`: what the sockets know of the reason."""
    silence = (
        "Is `ztasks head` running there, and can this host reach it (firewall)? A head does not answer a key that it "
        "does not know: copy client.join from its --join-dir again"
        if join.curve
        else "Is `ztasks head` running there?"
    )
    why = trouble or silence
    end = "" if why.endswith((".", "?")) else "."
    return HeadLost(f"no head has answered at {where(join)} within {seconds:g} s: {why}{end}")


def gone(join: JoinFile, seconds: float, trouble: str) -> HeadLost:
    """The head was there, and has not been for too long."""
    why = f": {trouble}" if trouble else ""
    return HeadLost(
        f"the head at {where(join)} has not answered for {seconds:g} s (reconnect_timeout){why}. It is still looked "
        "for, and what is submitted when it is back is taken in."
    )


def strange(join: JoinFile, error: WireError) -> HeadLost:
    """The head has said what cannot be."""
    return HeadLost(
        f"what the head at {where(join)} has sent does not follow the protocol ({error}). Its ztasks is of another "
        "version than the one here, or this is a defect in ztasks; please report it."
    )


def rejected(join: JoinFile, reject: Reject) -> ZtasksError:
    """The head does not take this client in."""
    kind = HeadFull if reject.code == "full" else HeadLost
    why = reject.why.removesuffix(".")
    return kind(f"the head at {where(join)} does not take this client in: {why}.")


def lost(why: ZtasksError, job_id: str | None, *, durable: bool) -> ZtasksError:
    """A job's head is gone; `why` says that. `job_id` is None if the job has not been sent."""
    if job_id is None:
        return type(why)(f"{why} This job was not sent.")
    if durable:
        cure = (
            f"The head has a journal: the job goes on when it is back, and client.job({job_id!r}).result() gets its "
            f"result then, also from another process (`ztasks result {job_id}`)"
        )
    else:
        cure = "The head has no journal: if it has ended, the job is lost. Submit it again if it may run twice"
    return type(why)(f"{why} What has become of the job is not known. {cure}.")


def left(job_id: str | None) -> HeadLost:
    """A client has left what goes on without it."""
    if job_id is None:
        return HeadLost("the client was closed before this job was sent; it was not submitted.")
    return HeadLost(
        f"the client has left before this job had ended. The head has a journal: the job goes on, and "
        f"client.job({job_id!r}).result() gets its result, also from another process (`ztasks result {job_id}`)."
    )


def closed() -> ExecutorClosed:
    """A question was asked when the client had been closed."""
    return ExecutorClosed(
        "the client was closed before the head had answered. Nothing is lost there: ask with another."
    )


def forked() -> ForkedExecutor:
    """A job is of the parent process."""
    return ForkedExecutor(
        "this job belongs to the process that submitted it; this process is a forked child of that. It goes on there; "
        "submit others here."
    )


def killed(job_id: str | None) -> HeadLost:
    """A client was killed."""
    what = "was not sent" if job_id is None else "has been told to stop; whether it came to its end is not known"
    return HeadLost(f"the client was killed before this job had ended. The job {what}.")


def no_thread(error: Exception) -> HeadLost:
    """The system refuses what a client needs."""
    return HeadLost(f"the client's thread cannot be started, or its connection opened: {error}. Nothing was submitted.")


def too_large(most: int) -> TooLarge:
    """The head would not take a job in."""
    return TooLarge(
        f"the head takes no more than {most:,} bytes at once, arguments or callable. The job was not sent. Put the "
        "data where workers can read it and send its name, or start the head with more `--max-bytes`."
    )


def refusal(refused: Refused) -> ZtasksError:
    """Return the error for what the head has not taken in."""
    why = refused.why.removesuffix(".")
    if refused.code == "full":
        return HeadFull(f"the head has no room for more: {why}. The job was not accepted; try again later.")
    if refused.code == "stopping":
        return HeadLost(f"the head takes no more work in: {why}. The job was not accepted.")
    if refused.code == "dropped":
        return HeadLost(
            f"the job has ended, but {why}: it is not run again. `ztasks head --keep` and `--keep-bytes` say how long, "
            "and how much, is kept for clients that are away."
        )
    if refused.code == "unknown":
        return HeadLost(
            f"{why}. at_most_once forbids to run the job again: it may have begun. What it has done until then is done."
        )
    return InvalidOption(f"the head cannot take this job in: {why}. It was not accepted.")


def of_answer(why: str, value: object) -> Exception:
    """Return the error for a question that the head has not answered."""
    code = value.get("code") if isinstance(value, dict) else None
    if code in ("not-found", "fetched"):
        return JobNotFound(why)
    if code == "not-ended":
        return TimeoutError(why)
    return InvalidOption(why) if code == "invalid" else ZtasksError(why)
