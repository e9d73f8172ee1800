"""The tables and lines in which simulator and receiver show their counts; for people."""

import datetime

import rich.table
import rich.text

from usher_gateway import model
from usher_gateway.simulator import books, tally, verdict


def progress_table(so_far: books.Books) -> rich.table.Table:
    """What a terminal shows while the simulation runs."""
    table = rich.table.Table(box=None, pad_edge=False)
    table.add_column("listener", overflow="fold")
    for name in ("done", "of", "requests", "failed", "retries", "state"):
        table.add_column(name, justify="right")
    for each in so_far.listeners:
        table.add_row(
            rich.text.Text(each.name), str(each.acknowledged), str(each.authentications), str(each.sent),
            str(each.failures), str(each.retries), rich.text.Text(_state(each)),
        )  # fmt: skip
    return table


def progress_line(so_far: books.Books) -> str:
    """The same where the output is no terminal: one line over all listeners."""
    listeners = so_far.listeners
    done = sum(each.acknowledged for each in listeners)
    total = sum(each.authentications for each in listeners)
    failed = sum(each.failures for each in listeners)
    sent = sum(each.sent for each in listeners)
    return f"{done} of {total} visits acknowledged; {sent} requests, {failed} failed"


def books_table(result: books.Books) -> rich.table.Table:
    """The sender's books, one column per listener."""
    table = rich.table.Table(title="The sender's books", title_justify="left")
    table.add_column("")
    for each in result.listeners:
        table.add_column(rich.text.Text(each.name), justify="right", overflow="fold")
    rows = [_rows(each) for each in result.listeners]
    for lines in zip(*rows, strict=True):
        table.add_row(lines[0][0], *(value for _, value in lines))
    return table


def validation_table(listener: books.ListenerBooks) -> rich.table.Table:
    """What the portal's "Save and Validate" would have seen."""
    table = rich.table.Table(title=rich.text.Text(f"Save and Validate: {listener.name}"), title_justify="left")
    for name in ("call", "answer", "seconds", ""):
        table.add_column(name)
    for each in listener.validations:
        explained = verdict.explain(each.outcome, each.status)
        table.add_row(each.shape, explained, f"{each.seconds:.3f}", "ok" if each.passed else "WRONG")
    return table


def counts_table(counts: dict[str, tally.Counts], *, signatures: bool) -> rich.table.Table:
    """A receiver's counts per path."""
    table = rich.table.Table()
    table.add_column("path", overflow="fold")
    names = ["received", "taken", "distinct ids", "duplicates", "without id"]
    for name in [*names, *(["bad signatures"] if signatures else []), "last seen (UTC)"]:
        table.add_column(name, justify="right")
    for path, each in counts.items():
        values = [each.received, each.taken, each.distinct, each.duplicates, each.without_id]
        if signatures:
            values.append(each.signatures_wrong)
        seen = datetime.datetime.fromtimestamp(each.last_seen // model.MICROSECONDS, datetime.UTC)
        table.add_row(rich.text.Text(path), *map(str, values), f"{seen:%H:%M:%S}")
    return table


def counts_line(counts: dict[str, tally.Counts]) -> str:
    """The same on one line, over all paths."""
    received = sum(each.received for each in counts.values())
    taken = sum(each.taken for each in counts.values())
    duplicates = sum(each.duplicates for each in counts.values())
    return f"{received} received, {taken} taken, {duplicates} duplicates, on {len(counts)} paths"


def _state(each: books.ListenerBooks) -> str:
    if each.disabled:
        return "DISABLED"
    return "all acknowledged" if each.acknowledged == each.authentications else "sending"


def _hook(each: books.ListenerBooks) -> str:
    if each.validations and not any(validation.passed for validation in each.validations):
        return "never enabled"
    return "DISABLED" if each.disabled else "enabled"


def _rows(each: books.ListenerBooks) -> list[tuple[str, str]]:
    latency = each.latency
    return [
        ("authentications", str(each.authentications)),
        ("  first visits", str(each.visits)),
        ("  repeats", str(each.repeats)),
        ("redeliveries planned", str(each.redeliveries)),
        ("requests", str(each.sent)),
        ("  answered well", str(each.answered_well)),
        ("  failed", verdict.failures(each)),
        ("  hung up by the sender", str(each.hung_up)),
        ("retries", str(each.retries)),
        ("redeliveries answered well", str(each.redelivered)),
        ("acknowledged", str(each.acknowledged)),
        ("still unacknowledged", str(each.unacknowledged)),
        ("  never sent", str(each.never_sent)),
        ("hook", _hook(each)),
        ("answer p50 / p99 / max", f"{latency.p50:.3f} / {latency.p99:.3f} / {latency.max:.3f} s"),
    ]
