from usher_gateway.delivery.request_memory import LARGE_REQUEST_BYTES, RequestMemory

LARGE = 2 * LARGE_REQUEST_BYTES


def made(memory: RequestMemory, key: int, length: int, tenant: str = "n/loud") -> bool:
    """Start an attempt, and make its request if it may."""
    memory.start(key, tenant.partition("/")[0], tenant)
    if not memory.may_make(key):
        memory.end(key)
        return False
    memory.note(key, length)
    return True


def test_tenant_makes_requests_until_they_take_as_much_as_its_namespace_leaves() -> None:
    memory = RequestMemory(max_bytes=12 * LARGE)
    assert [made(memory, key, LARGE) for key in range(4)] == [True, True, False, False], "a request counts twice"
    assert not memory.admits("n", "n/loud")
    assert memory.admits("n", "n/quiet")
    assert memory.admits("other", "other/tenant")
    memory.end(0)
    assert made(memory, 5, LARGE)


def test_attempts_that_started_together_make_no_more_requests_than_later_ones() -> None:
    memory = RequestMemory(max_bytes=12 * LARGE)
    for key in range(100):
        memory.start(key, "n", "n/loud")
    for key in range(100):
        if memory.may_make(key):
            memory.note(key, LARGE)
        else:
            memory.end(key)
    assert not memory.admits("n", "n/loud")
    memory.end(0)
    memory.end(1)
    memory.start(100, "n", "n/loud")
    memory.start(101, "n", "n/loud")
    assert not memory.admits("n", "n/loud"), "what is expected of the two counts already"


def test_tenant_without_a_request_makes_one_of_any_size() -> None:
    memory = RequestMemory(max_bytes=12 * LARGE)
    for key in range(5):
        assert made(memory, key, 100 * LARGE)
        assert not made(memory, key + 100, 1)
        memory.end(key)


def test_small_requests_do_not_count() -> None:
    memory = RequestMemory(max_bytes=12 * LARGE)
    assert [made(memory, key, LARGE_REQUEST_BYTES) for key in range(100)] == [True] * 100
    assert memory.admits("n", "n/loud")


def test_small_requests_after_a_large_one_are_soon_expected_to_be_small() -> None:
    memory = RequestMemory(max_bytes=12 * LARGE)
    for key in range(20):
        assert made(memory, key, LARGE if key == 0 else 1)
        memory.end(key)
    for key in range(100):
        memory.start(key, "n", "n/loud")
    assert memory.admits("n", "n/loud")
