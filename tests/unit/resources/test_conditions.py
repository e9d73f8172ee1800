from usher_gateway.resources import conditions


def test_hint_names_the_nearest_word() -> None:
    assert conditions.did_you_mean("timezone", ["timeZone", "state"]) == "did you mean `timeZone`?"
    assert conditions.did_you_mean("zzz", ["a", "b"]) == "known: a, b"


def test_condition_message_is_at_most_1024_characters() -> None:
    findings = [
        conditions.Finding("Listener", "a/b", f"x{number}", conditions.Reason.ExpressionInvalid, "x" * 100)
        for number in range(32)
    ]
    (accepted, _) = conditions.conditions_of(findings)
    assert len(accepted.message) <= 1024
