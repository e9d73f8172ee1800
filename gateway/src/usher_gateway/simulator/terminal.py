"""Runs the simulator and the receiver for a user: progress on standard error, results at the end."""

import asyncio
import collections
import contextlib
import datetime
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator

import msgspec
import rich.console
import rich.table
import rich.text

from usher_gateway import model
from usher_gateway.simulator import books, receiver, receiving, sender
from usher_gateway.simulator.settings import SimulatorSettings


def progress_line(so_far: books.SimulationBooks) -> str:
    """Return the progress over all listeners on one line."""
    listeners = so_far.listeners
    done = sum(listener.acknowledged for listener in listeners)
    total = sum(listener.authentications for listener in listeners)
    failed = sum(listener.failures for listener in listeners)
    sent = sum(listener.sent for listener in listeners)
    return f"visits acknowledged: {done} of {total}; requests: {sent}, failed: {failed}"


def books_table(result: books.SimulationBooks) -> rich.table.Table:
    """Return the books as a table. Each listener has a column under its number, because URLs are wider than counts."""
    numbers = map(str, range(1, len(result.listeners) + 1))
    table = rich.table.Table("", *[rich.table.Column(number, justify="right") for number in numbers])
    rows = [[*_rows(listener), ("hook", _hook(listener)), _latency(listener)] for listener in result.listeners]
    for lines in zip(*rows, strict=True):
        table.add_row(lines[0][0], *(value for _, value in lines))
    return table


def total_table(result: books.SimulationBooks) -> rich.table.Table:
    """Return the sums over many listeners' books as a table."""
    table = rich.table.Table("", rich.table.Column("all", justify="right"))
    disabled = sum(listener.disabled for listener in result.listeners)
    total = books.total_of(result.listeners)
    for name, value in [*_rows(total), ("hooks disabled", str(disabled)), _latency(total, "worst ")]:
        table.add_row(name, value)
    return table


def validation_table(listener: books.SenderBooks) -> rich.table.Table:
    """Return what the portal's "Save and Validate" found as a table."""
    table = rich.table.Table("call", "answer", "seconds", "")
    for validation in listener.validations:
        explained = books.explain(validation.outcome, validation.status)
        table.add_row(validation.shape, explained, f"{validation.seconds:.3f}", "ok" if validation.passed else "WRONG")
    return table


def counts_table(counts: dict[str, receiving.PathCounts], *, signatures: bool) -> rich.table.Table:
    """Return a receiver's counts as a table with one row per path."""
    table = rich.table.Table(rich.table.Column("path", overflow="fold"))
    names = ["received", "taken", "distinct ids", "duplicates", "without id"]
    for name in [*names, *(["bad signatures"] if signatures else []), "last seen (UTC)"]:
        table.add_column(name, justify="right")
    for path, path_counts in counts.items():
        values = [
            path_counts.received,
            path_counts.taken,
            path_counts.distinct,
            path_counts.duplicates,
            path_counts.without_id,
        ]
        if signatures:
            values.append(path_counts.signatures_wrong)
        last_seen = datetime.datetime.fromtimestamp(path_counts.last_seen // model.MICROSECONDS, datetime.UTC)
        table.add_row(rich.text.Text(path), *map(str, values), f"{last_seen:%H:%M:%S}")
    return table


def counts_line(counts: dict[str, receiving.PathCounts]) -> str:
    """Return the counts over all paths on one line."""
    received = sum(path_counts.received for path_counts in counts.values())
    taken = sum(path_counts.taken for path_counts in counts.values())
    duplicates = sum(path_counts.duplicates for path_counts in counts.values())
    paths = "1 path" if len(counts) == 1 else f"{len(counts)} paths"
    return f"{received} received, {taken} taken, {duplicates} duplicates, on {paths}"


def _hook(listener: books.SenderBooks) -> str:
    if listener.validations and not any(validation.passed for validation in listener.validations):
        return "never enabled"
    return "DISABLED" if listener.disabled else "enabled"


def _latency(listener: books.SenderBooks, which: str = "") -> tuple[str, str]:
    latency = listener.latency
    seconds = f"{latency.p50:.3f} / {latency.p99:.3f} / {latency.max:.3f} s" if latency.max else "no answer"
    return f"{which}answer p50 / p99 / max", seconds


def _rows(listener: books.SenderBooks) -> list[tuple[str, str]]:
    return [
        ("authentications", str(listener.authentications)),
        ("  first visits", str(listener.visits)),
        ("  repeats", str(listener.repeats)),
        ("redeliveries planned", str(listener.redeliveries)),
        ("requests", str(listener.sent)),
        ("  answered well", str(listener.answered_well)),
        ("  failed", books.failures(listener)),
        ("  hung up by the sender", str(listener.hung_up)),
        ("retries", str(listener.retries)),
        ("redeliveries answered well", str(listener.redelivered)),
        ("acknowledged", str(listener.acknowledged)),
        ("still unacknowledged", str(listener.unacknowledged)),
        ("  never sent", str(listener.never_sent)),
    ]


_MANY = 5  # The most listeners that get a column or a line each
_SHOWN = 20  # Of many listeners, the most that are printed one by one

_LINE_SECONDS = 5.0


async def simulate(settings: SimulatorSettings) -> books.SimulationBooks:
    """Run a simulation with progress on standard error; Ctrl-C stops it early.

    Raises:
        ConfigurationError: a URL or the CA file cannot be used.
    """
    console = rich.console.Console(stderr=True)
    disabled: set[int] = set()
    last = time.monotonic()

    def progress(so_far: books.SimulationBooks) -> None:
        nonlocal last
        for number, listener in enumerate(so_far.listeners):
            if listener.disabled and number not in disabled:
                disabled.add(number)
                message = f"!!! {listener.name}: only failures for too long: Purple has DISABLED this hook"
                _print_line(console, message, "bold red")
        if time.monotonic() - last >= _LINE_SECONDS:
            last = time.monotonic()
            sys.stderr.write(f"{progress_line(so_far)}\n")

    simulator = sender.Simulator(settings, progress)
    with _on_interrupt(simulator.stop):
        return await simulator.run()


@contextlib.contextmanager
def _on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


class Report(msgspec.Struct, frozen=True):
    """The output of ``usher simulate --output json``."""

    survives: bool
    verdicts: tuple[books.Verdict, ...]
    books: books.SimulationBooks


def report(settings: SimulatorSettings, result: books.SimulationBooks) -> Report:
    """Return the books with a verdict on each listener."""
    verdicts = tuple(
        books.judge_books(
            listener,
            https=target.url.lower().startswith("https:"),
            verified=settings.tls == "Verify",
            interrupted=result.interrupted,
            validate_only=settings.validate_only,
        )
        for target, listener in zip(settings.targets, result.listeners, strict=True)
    )
    return Report(all(verdict.survives for verdict in verdicts), verdicts, result)


def show_report(settings: SimulatorSettings, result: Report, *, as_json: bool) -> None:
    """Print the result on standard output."""
    if as_json:
        sys.stdout.write(f"{msgspec.json.format(msgspec.json.encode(result), indent=2).decode()}\n")
        return
    console = _console()
    if len(result.books.listeners) > _MANY:
        _show_summary(console, result, validate_only=settings.validate_only)
        return
    for sender_books in result.books.listeners:
        if sender_books.validations:
            _print_line(console, f"Save and Validate: {sender_books.name}")
            console.print(validation_table(sender_books))
    if not settings.validate_only:
        _print_line(console, "The sender's books")
        for number, sender_books in enumerate(result.books.listeners, 1):
            _print_line(console, f"  {number}: {sender_books.name}")
        console.print(books_table(result.books))
    if result.books.interrupted:
        console.print("Interrupted: these are the books up to now.")
    for listener, judged in zip(result.books.listeners, result.verdicts, strict=True):
        _print_verdict(console, listener.name, judged, judged.lines[1:])


def _print_verdict(console: rich.console.Console, name: str, judged: books.Verdict, notes: Iterable[str]) -> None:
    _print_line(console, f"{name}: {judged.lines[0]}", "green" if judged.survives else "bold red")
    for note in notes:
        _print_line(console, f"  - {note}")


def _show_summary(console: rich.console.Console, result: Report, *, validate_only: bool) -> None:
    """Print many listeners' books as sums: those with something to say, and then how many got which verdict."""
    if not validate_only:
        _print_line(console, "The sender's books")
        console.print(total_table(result.books))
    if result.books.interrupted:
        console.print("Interrupted: these are the books up to now.")
    notes_of_all = set.intersection(*[set(judged.lines[1:]) for judged in result.verdicts])
    told = [
        (judged, listener.name, [note for note in judged.lines[1:] if note not in notes_of_all])
        for listener, judged in zip(result.books.listeners, result.verdicts, strict=True)
    ]
    told = sorted([entry for entry in told if entry[2] or not entry[0].survives], key=lambda entry: entry[0].survives)
    for judged, name, notes in told[:_SHOWN]:
        _print_verdict(console, name, judged, notes)
    if len(told) > _SHOWN:
        _print_line(console, f"More listeners with remarks: {len(told) - _SHOWN} (`-o json` has all).")
    for note in sorted(notes_of_all):
        _print_line(console, f"All: {note}")
    verdicts = collections.Counter((judged.survives, judged.lines[0]) for judged in result.verdicts)
    for (survives, line), count in sorted(verdicts.items(), reverse=True):
        _print_line(
            console, f"{count} of {len(result.verdicts)} listeners: {line}", "green" if survives else "bold red"
        )


def _print_line(console: rich.console.Console, text: str, style: str = "") -> None:
    """Print a line as it is: never broken at the terminal's width, so that a URL stays whole."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


async def receive(receiving: receiver.Receiver, *, signatures: bool, as_json: bool) -> bool:
    """Run a receiver until Ctrl-C and show its counts; return whether every signature was good or none was verified.

    Raises:
        ConfigurationError: the port cannot be opened, or the certificate cannot be read.
    """
    stopped = asyncio.Event()
    with _on_interrupt(stopped.set):
        async with receiving:
            sys.stderr.write(f"Receiving at {receiving.url}; Ctrl-C ends.\n")
            await _print_changes(receiving, stopped)
    counts = receiving.all_counts()
    if as_json:
        sys.stdout.write(f"{msgspec.json.format(msgspec.json.encode(counts), indent=2).decode()}\n")
    else:
        _console().print(counts_table(counts, signatures=signatures))
        _print_line(_console(), counts_line(counts))
    return not signatures or not any(path_counts.signatures_wrong for path_counts in counts.values())


async def _print_changes(receiving: receiver.Receiver, stopped: asyncio.Event) -> None:
    """Print a line every few seconds if something was received, until the receiver is stopped."""
    printed = counts_line({})
    while not stopped.is_set():
        line = counts_line(receiving.all_counts())
        if line != printed:
            printed = line
            sys.stderr.write(f"{line}\n")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), _LINE_SECONDS)


def print_body(received: receiver.Received) -> None:
    """Print a body on standard output with control characters escaped. Only on request, because it is personal data."""
    text = received.body.decode(errors="backslashreplace")
    safe = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
    sys.stdout.write(f"{received.method} {received.path.partition('?')[0]} {safe}\n")
    sys.stdout.flush()


def _console() -> rich.console.Console:
    """Return a console for standard output, wide enough for every table if it is not a terminal."""
    console = rich.console.Console(highlight=False)
    return console if console.is_terminal else rich.console.Console(highlight=False, width=160)
