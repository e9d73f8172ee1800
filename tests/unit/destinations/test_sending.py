"""Redirects are followed once, over https, to a listed host, without credentials and body."""

from typing import Any, cast

import multidict
import pytest

from support import delivery_samples
from usher_gateway.destinations import DestinationAnswer, DestinationRequest
from usher_gateway.destinations.sending import Sender

SCRIPT = "https://script.google.com/macros/s/AKfy/exec"
ECHO = "https://script.googleusercontent.com/macros/echo?user_content_key=k%2F1&lib=M"


class Client:
    """Answers the first request with a redirect, and the next one with 200."""

    def __init__(self, status: int, location: str) -> None:
        self.status, self.location = status, location
        self.requests: list[DestinationRequest] = []
        self.limits: list[float] = []

    async def send(self, request: DestinationRequest, timeout_seconds: float) -> DestinationAnswer:
        self.requests.append(request)
        self.limits.append(timeout_seconds)
        if len(self.requests) == 1:
            return DestinationAnswer(self.status, multidict.CIMultiDict({"Location": self.location}))
        return DestinationAnswer(200, multidict.CIMultiDict(), b"ok")


async def sent(status: int, location: str, *hosts: str) -> tuple[Client, DestinationAnswer]:
    client = Client(status, location)
    headers = [("webhook-id", "1"), ("authorization", "Bearer sesame"), ("X-Key", "k"), ("user-agent", "usher/1")]
    request = DestinationRequest("POST", SCRIPT, headers, b"{}", reads_answer=True)
    destination = delivery_samples.destination(url=SCRIPT, redirect_hosts=hosts)
    return client, await Sender(cast("Any", client)).send(request, destination)


@pytest.mark.parametrize("status", [302, 303])
async def test_redirect_is_followed_without_credentials_and_body(status: int) -> None:
    client, answer = await sent(status, ECHO, "script.googleusercontent.com")
    assert (answer.status, answer.body) == (200, b"ok")
    _, second = client.requests
    assert (second.method, second.url, second.body) == ("GET", ECHO, b"")
    assert second.headers == [("webhook-id", "1"), ("user-agent", "usher/1")]
    assert second.reads_answer
    assert second.is_url_secret
    assert client.limits[1] <= client.limits[0]


async def test_redirect_is_followed_also_if_the_post_may_not_be_sent_again() -> None:
    """Else the answer would be withdrawn, and the worker would send the POST again."""
    client = Client(303, ECHO)
    destination = delivery_samples.destination(url=SCRIPT, redirect_hosts=("script.googleusercontent.com",))
    request = DestinationRequest("POST", SCRIPT, [], b"{}", may_send=lambda: False)
    await Sender(cast("Any", client)).send(request, destination)
    assert [request.may_send is None for request in client.requests] == [False, True]


async def test_second_redirect_is_not_followed() -> None:
    class Loop(Client):
        async def send(self, request: DestinationRequest, timeout_seconds: float) -> DestinationAnswer:
            await super().send(request, timeout_seconds)
            return DestinationAnswer(302, multidict.CIMultiDict({"Location": ECHO}))

    client = Loop(302, ECHO)
    destination = delivery_samples.destination(url=SCRIPT, redirect_hosts=("script.googleusercontent.com",))
    answer = await Sender(cast("Any", client)).send(DestinationRequest("POST", SCRIPT, [], b""), destination)
    assert (answer.status, len(client.requests)) == (302, 2)


@pytest.mark.parametrize(
    ("status", "location"),
    [
        (301, ECHO),
        (307, ECHO),
        (308, ECHO),
        (200, ECHO),
        (302, ECHO + b"\xff".decode("utf-8", "surrogateescape")),
        (302, ""),
        (302, "http://script.googleusercontent.com/"),
        (302, "https://evil.example/"),
        (302, "https://script.googleusercontent.com.evil.example/"),
        (302, "https://script.googleusercontent.com:8443/"),
        (302, "https://script.googleusercontent.com@evil.example/"),
        (302, "https://evil.example@script.googleusercontent.com/"),
        (302, "https://evil.example\\@script.googleusercontent.com/"),
        (302, "//evil.example/"),
        (302, "/macros/here"),
        (302, "javascript:alert(1)"),
        (302, "https://[::1"),
        (302, "https://169.254.169.254/latest"),
    ],
)
async def test_other_answers_are_not_followed(status: int, location: str) -> None:
    client, answer = await sent(status, location, "script.googleusercontent.com")
    assert (answer.status, len(client.requests)) == (status, 1)


async def test_redirect_without_listed_hosts_is_not_followed() -> None:
    client, answer = await sent(302, ECHO)
    assert (answer.status, len(client.requests)) == (302, 1)


async def test_relative_redirect_to_a_listed_host_is_followed() -> None:
    client, _ = await sent(303, "/macros/echo a?b=ü", "script.google.com")
    assert client.requests[1].url == "https://script.google.com/macros/echo%20a?b=%C3%BC"
