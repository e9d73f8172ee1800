from usher_gateway.delivery.request_memory import LARGE_REQUEST_BYTES, RequestMemory

LARGE = 2 * LARGE_REQUEST_BYTES


def is_made(memory: RequestMemory, key: int, length: int, tenant: str = "n/loud") -> bool:
    """Start an attempt, and make its request if it may."""
    memory.start(key, tenant.partition("/")[0], tenant)
    if memory.may_make(key) and memory.may_keep(key, length):
        return True
    memory.end(key)
    return False


def test_tenant_makes_requests_until_they_take_as_much_as_its_namespace_leaves() -> None:
    memory = RequestMemory(max_bytes=12 * LARGE)
    assert [is_made(memory, key, LARGE) for key in range(4)] == [True, True, False, False], "a request counts twice"
    assert not memory.admits("n", "n/loud")
    memory.end(0)
    assert is_made(memory, 5, LARGE)
    assert is_made(memory, 10, LARGE, "n/quiet")
    assert is_made(memory, 11, LARGE, "other/tenant")


def test_attempts_that_started_together_make_no_more_requests_than_later_ones() -> None:
    memory = RequestMemory(max_bytes=12 * LARGE)
    for key in range(100):
        memory.start(key, "n", "n/loud")
    made = [key for key in range(100) if memory.may_make(key) and memory.may_keep(key, LARGE)]
    assert made == [0, 1]
    for key in range(100):
        memory.end(key)
    for key in range(2):
        memory.start(key, "n", "n/loud")
    assert not memory.admits("n", "n/loud"), "what is expected of the two counts already"


def test_requests_of_many_tenants_exceed_the_memory_by_one_at_most() -> None:
    memory = RequestMemory(max_bytes=12 * LARGE)
    made = [number for number in range(100) if is_made(memory, number, LARGE, f"n{number}/tenant")]
    assert 2 * len(made) <= 12 + 2


def test_tenant_without_a_request_makes_one_of_any_size() -> None:
    memory = RequestMemory(max_bytes=12 * LARGE)
    for key in range(5):
        assert is_made(memory, key, 100 * LARGE)
        assert not is_made(memory, key + 100, LARGE)
        memory.end(key)


def test_tenant_with_small_requests_does_not_wait_for_the_large_ones_of_others() -> None:
    memory = RequestMemory(max_bytes=12 * LARGE)
    assert is_made(memory, 0, 100 * LARGE)
    for key in range(1, 100):
        assert memory.admits("n", "n/quiet")
        assert is_made(memory, key, LARGE_REQUEST_BYTES, "n/quiet")


def test_small_requests_after_a_large_one_are_soon_expected_to_be_small() -> None:
    memory = RequestMemory(max_bytes=12 * LARGE)
    for key in range(20):
        assert is_made(memory, key, LARGE if key == 0 else 1)
        memory.end(key)
    for key in range(100):
        memory.start(key, "n", "n/loud")
    assert memory.admits("n", "n/loud")
