"""What the books mean, in plain words: would this listener survive Purple? Pure."""

import msgspec

from usher_gateway.simulator import answer, books


class Verdict(msgspec.Struct, frozen=True):
    """``survives`` is False where something was found wrong; ``lines`` say what, why, and what to do about it."""

    survives: bool
    lines: tuple[str, ...]


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """How the books came about."""

    https: bool = True
    verified: bool = True
    """Whether the certificate was checked."""
    interrupted: bool = False
    validate_only: bool = False


def judge_books(listener: books.ListenerBooks, circumstances: Circumstances) -> Verdict:
    """Judge one listener's books."""
    wrongs = _validation(listener)
    notes = _transport(circumstances)
    if not circumstances.validate_only:
        wrongs += _answers(listener)
        notes = [*_unacknowledged(listener), *_remarks(listener), *notes]
    if wrongs:
        return Verdict(survives=False, lines=("Would not survive Purple.", *wrongs, *notes))
    if circumstances.interrupted:
        return Verdict(survives=False, lines=("No verdict: it was interrupted before the end.", *notes))
    if listener.unacknowledged and not circumstances.validate_only:
        return Verdict(survives=False, lines=("Has not survived Purple yet.", *notes))
    first = "The portal would accept it." if circumstances.validate_only else "Would survive Purple."
    return Verdict(survives=True, lines=(first, *notes))


def _validation(listener: books.ListenerBooks) -> list[str]:
    failed = [each for each in listener.validations if not each.passed]
    if not failed:
        return []
    by_reason: dict[str, list[str]] = {}
    for each in failed:
        by_reason.setdefault(explain(each.outcome, each.status), []).append(each.shape)
    reasons = "; ".join(f"{', '.join(shapes)}: {reason}" for reason, shapes in by_reason.items())
    if len(failed) == len(listener.validations):
        return [f"The portal would refuse to save it, so nothing would ever be sent ({reasons})."]
    return [
        f"The portal may refuse to save it ({reasons}): its call is not documented, so answer each 200 with the header."
    ]


def _answers(listener: books.ListenerBooks) -> list[str]:
    lines = []
    if listener.disabled:
        lines.append(
            "THE HOOK WAS DISABLED after a prolonged time of failures: Purple sends nothing more, and tells nobody "
            "through the hook. A person must validate it again in the portal."
        )
    missing = listener.header_missing + listener.header_wrong
    if missing:
        lines.append(
            f"Answers of 200 without the header {answer.SUCCESS_HEADER}: {answer.SUCCESS_VALUE}: {missing}. To Purple "
            "that is a failure: it brings the visit back every 3 hours, and enough of them disable the hook."
        )
    wrong = {
        status: count
        for status, count in sorted(listener.failed_by_status.items())
        if answer.Answer(answer.Outcome.WrongStatus, status).is_wrong
    }
    if wrong:
        shown = ", ".join(f"{count} times {status}" for status, count in wrong.items())
        lines.append(
            f"It answered {shown}: only 200 is success (redirects are not followed). A 4xx does not make Purple give "
            "a visit up; it comes back until the hook is disabled. Answer 200 and set aside what is no good."
        )
    if listener.tls_failed:
        lines.append(f"Failed for TLS: {listener.tls_failed}. Purple posts only where the certificate is valid.")
    return lines


def _unacknowledged(listener: books.ListenerBooks) -> list[str]:
    lines = []
    tried = listener.unacknowledged - listener.never_sent
    if tried:
        again = "" if listener.disabled else ": Purple would bring them again 3 hours after each try"
        lines.append(f"Still unacknowledged: {tried}{again}.")
    if listener.never_sent:
        lines.append(f"Never sent: {listener.never_sent}.")
    return lines


def _remarks(listener: books.ListenerBooks) -> list[str]:
    lines = []
    if listener.failures:
        lines.append(f"Failed requests: {listener.failures} ({failures(listener)}); retries: {listener.retries}.")
    if listener.timed_out or listener.hung_up:
        lines.append(
            f"Given up without an answer: {listener.timed_out + listener.hung_up}. What the listener had stored all "
            "the same comes twice; Purple sends no event id, so it has to tell by the content."
        )
    redeliveries = listener.redeliveries - listener.redelivered
    if redeliveries:
        lines.append(f"Planned redeliveries that were not sent or not acknowledged before the end: {redeliveries}.")
    if listener.latency.p99 > 0.5 * answer.LIMIT_SECONDS:
        lines.append(f"It is slow: p99 {listener.latency.p99:.1f} s of the {answer.LIMIT_SECONDS:.0f} s that it has.")
    if listener.behind_seconds > 1:
        lines.append(
            f"The sender was up to {listener.behind_seconds:.1f} s behind its plan: the listener was slower than the "
            "rate, with as many requests under way as --concurrency allows."
        )
    return lines


def _transport(circumstances: Circumstances) -> list[str]:
    if not circumstances.https:
        return ["The URL is not https: Purple posts only to https with a valid certificate."]
    return [] if circumstances.verified else ["The certificate was not checked: Purple posts only where it is valid."]


def failures(listener: books.ListenerBooks) -> str:
    """The failures by kind, on one line; ``none`` without any."""
    kinds = {
        **{str(status): count for status, count in sorted(listener.failed_by_status.items())},
        "without header": listener.header_missing,
        "wrong header": listener.header_wrong,
        "timed out": listener.timed_out,
        "unreachable": listener.unreachable,
        "TLS": listener.tls_failed,
        "broken": listener.broken,
    }
    return ", ".join(f"{name}: {count}" for name, count in kinds.items() if count) or "none"


def explain(outcome: answer.Outcome, status: int) -> str:
    """An outcome in a few words."""
    if outcome is answer.Outcome.WrongStatus:
        return f"status {status}"
    return f"{status}, {outcome.value}" if status else outcome.value
