"""What the books mean, in plain words: would this listener survive Purple? Pure."""

import msgspec

from usher_gateway.simulator import answer, books


class Verdict(msgspec.Struct, frozen=True):
    """``survives`` is False where something was found wrong; ``lines`` say what, why, and what to do about it."""

    survives: bool
    lines: tuple[str, ...]


def judge_books(listener: books.ListenerBooks, *, https: bool, verified: bool, validate_only: bool = False) -> Verdict:
    """Judge one listener's books. ``https``, ``verified``: how its certificate was met."""
    wrongs = [*_validation(listener), *([] if validate_only else _answers(listener))]
    notes = [*([] if validate_only else _remarks(listener)), *_transport(https, verified)]
    if wrongs:
        return Verdict(survives=False, lines=("Would not survive Purple.", *wrongs, *notes))
    first = "The portal would accept it." if validate_only else "Would survive Purple."
    return Verdict(survives=True, lines=(first, *notes))


def _validation(listener: books.ListenerBooks) -> list[str]:
    failed = [each for each in listener.validations if not each.passed]
    if not failed:
        return []
    shapes = ", ".join(f"{each.shape}: {explain(each.outcome, each.status)}" for each in failed)
    if len(failed) == len(listener.validations):
        return [f"The portal would refuse to save it ({shapes}), so nothing would ever be sent."]
    return [
        f"The portal may refuse to save it ({shapes}): its call is not documented, so answer each 200 with the header."
    ]


def _answers(listener: books.ListenerBooks) -> list[str]:
    lines = []
    if listener.disabled:
        lines.append(
            "THE HOOK WAS DISABLED after a prolonged time of failures: Purple sends nothing more, and tells nobody "
            f"through the hook. {listener.never_sent} visits were not even sent; a person must validate it again."
        )
    missing = listener.header_missing + listener.header_wrong
    if missing:
        lines.append(
            f"{missing} answers were 200 without the header {answer.SUCCESS_HEADER}: {answer.SUCCESS_VALUE}: to Purple "
            "that is a failure, which it brings back every 3 hours, and enough of them disable the hook."
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
        lines.append(f"TLS failed {listener.tls_failed} times: Purple posts only where the certificate is valid.")
    if listener.unacknowledged and not listener.disabled:
        lines.append(_unacknowledged(listener))
    return lines


def _unacknowledged(listener: books.ListenerBooks) -> str:
    sent = listener.unacknowledged - listener.never_sent
    parts = []
    if sent:
        parts.append(f"{sent} visits are still unacknowledged: Purple would bring them again 3 hours after each try.")
    if listener.never_sent:
        parts.append(f"{listener.never_sent} visits were never sent.")
    return " ".join(parts)


def _remarks(listener: books.ListenerBooks) -> list[str]:
    lines = []
    if listener.failures:
        lines.append(f"{listener.failures} requests failed ({failures(listener)}); {listener.retries} were retries.")
    if listener.timed_out or listener.hung_up:
        lines.append(
            f"{listener.timed_out + listener.hung_up} were given up without an answer: if the listener had stored "
            "them all the same, it got them twice. Purple sends no event id, so it has to tell by the content."
        )
    redeliveries = listener.redeliveries - listener.redelivered
    if redeliveries:
        lines.append(f"{redeliveries} planned redeliveries were not sent or not acknowledged before the end.")
    if listener.latency.p99 > 0.5 * answer.LIMIT_SECONDS:
        lines.append(f"It is slow: p99 {listener.latency.p99:.1f} s of the {answer.LIMIT_SECONDS:.0f} s that it has.")
    if listener.behind_seconds > 1:
        lines.append(
            f"The sender was up to {listener.behind_seconds:.1f} s behind its plan: the listener was slower than the "
            "rate, with as many requests under way as --concurrency allows."
        )
    return lines


def _transport(https: bool, verified: bool) -> list[str]:
    if not https:
        return ["The URL is not https: Purple posts only to https with a valid certificate."]
    return [] if verified else ["The certificate was not checked: Purple posts only where it is valid."]


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
