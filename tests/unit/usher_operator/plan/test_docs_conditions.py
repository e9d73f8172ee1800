"""docs/conditions.md explains exactly the reasons that plans give, each with its condition and status."""

import re

from support import plan_reasons, source
from usher_operator.state.values import ABNORMAL_CONDITIONS

PAGE = (source.DOCS / "conditions.md").read_text("utf-8")
OF_READY = {"Ready", "Suspended", "ListenersNotReady", "Pending"}


def test_conditions_page_has_exactly_the_reachable_reasons() -> None:
    rows = list(source.table_rows(PAGE))
    shown = [(row[0].strip("`"), row[1], row[2].strip("`")) for row in rows]
    reached = {
        (case.type, str(case.status), case.reason)
        for case in plan_reasons.CASES
        if case.type != "Ready" or case.reason in OF_READY  # Ready repeats the others' reasons
    }
    assert set(shown) == reached, "docs/conditions.md has a row for each case of tests/support/plan_reasons.py"
    assert len(shown) == len(reached)
    assert all(row[3] for row in rows)


def test_conditions_page_names_the_conditions_that_exist_only_while_true() -> None:
    sentence = PAGE.partition("\n## For a person\n")[2].partition(" exist only while they are True.")[0]
    abnormal = {str(condition_type) for condition_type in ABNORMAL_CONDITIONS}
    assert set(re.findall(r"`(\w+)`", sentence)) == abnormal, "the sentence in docs/conditions.md, For a person"
