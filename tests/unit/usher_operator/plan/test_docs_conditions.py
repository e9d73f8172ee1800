"""docs/conditions.md explains exactly the reasons that plans give, each with its condition and status."""

from support import plan_reasons, source

OF_READY = {"Ready", "Suspended", "ListenersNotReady", "Pending"}


def test_conditions_page_has_exactly_the_reachable_reasons() -> None:
    rows = list(source.table_rows((source.DOCS / "conditions.md").read_text("utf-8")))
    shown = [(row[0].strip("`"), row[1], row[2].strip("`")) for row in rows]
    reached = {
        (case.type, str(case.status), case.reason)
        for case in plan_reasons.CASES
        if case.type != "Ready" or case.reason in OF_READY  # Ready repeats the others' reasons
    }
    assert set(shown) == reached
    assert len(shown) == len(reached)
    assert all(row[3] for row in rows)
