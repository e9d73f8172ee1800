from support import samples
from usher_gateway.store import acceptance


def test_unstorable_arrival_keeps_the_size_of_its_body() -> None:
    arrival = samples.arrival("a", body=b"12345", body_size=0)
    unstorable = acceptance.unstorable(arrival)
    assert (unstorable.body, unstorable.body_size) == (b"", 5)
