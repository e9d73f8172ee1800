import time

from usher_gateway.resources import conditions


def test_hint_names_the_nearest_word() -> None:
    assert conditions.did_you_mean("timezone", ["timeZone", "state"]) == "did you mean `timeZone`?"
    assert conditions.did_you_mean("zzz", ["a", "b"]) == "known: a, b"


def test_hint_among_thousands_of_similar_long_names_is_found_in_time() -> None:
    """Tenants choose these names, and the gateway compares them while arrivals wait."""
    names = [f"{'d' * 60}/{'d' * 50}{number:05d}" for number in range(10_000)]
    started = time.process_time()
    assert conditions.did_you_mean(names[1_234] + "x", names) == f"did you mean `{names[1_234]}`?"
    assert time.process_time() - started < 8
