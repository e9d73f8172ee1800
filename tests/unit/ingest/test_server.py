"""The answers of the public port."""

from usher_gateway.ingest.answers import Answer


def test_answer_announces_whether_it_closes_the_connection() -> None:
    answer = Answer(200, keep_alive=True)
    assert answer.keep_alive
    assert b"Connection" not in answer.as_bytes()
    assert not answer.closing.keep_alive
    assert b"\r\nConnection: close\r\n" in answer.closing.as_bytes()
    assert answer.closing.closing is answer.closing
