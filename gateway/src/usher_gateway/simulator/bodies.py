"""What Purple posts: the body of an authentication, and the mark by which it is known again. Pure.

Source: purple.md, The body. Unknown fields are part of it, since Purple adds fields without notice.
"""

import datetime
import json
from typing import Any

import msgspec

from usher_gateway import model
from usher_gateway.simulator import people, schedule


class Company(msgspec.Struct, frozen=True):
    """A Purple company and the seed of its visitors."""

    id: str = "77"
    seed: int = 1
    first_venue: int = 9_100

    def person(self, index: int) -> people.Person:
        """The visitor with this number."""
        return people.person(self.seed, index)


def body_of(event: schedule.Event, company: Company, base: int) -> bytes:
    """The body of an authentication; ``base`` is the instant (microseconds) of the plan's start."""
    visitor = company.person(event.person)
    document = _document(visitor, event, company)
    _put_time(document, event.shape, base + event.occurred)
    # Half of the senders in the world escape what is not ASCII (PHP does by default), the others do not.
    return json.dumps(document, ensure_ascii=event.person % 2 == 0, separators=(",", ":")).encode()


def sample_body(company: Company, base: int) -> bytes:
    """A sample visit as the portal may send to validate an address: a person that no plan uses."""
    event = schedule.Event(
        kind=schedule.Kind.Visit,
        person=9_999_999,
        venue=0,
        visit_count=1,
        send=0,
        occurred=0,
        shape=schedule.TimeShape.UserOffset,
        id_as_text=False,
    )
    return body_of(event, company, base)


def marker(body: bytes) -> str:
    """What tells one authentication from all others: ``user id@time``, with ``-`` where the body has no time.

    Content that differs has another marker; a redelivery, and a repeat with identical content, has the same.

    Raises:
        ValueError: not a body of the simulator.
    """
    try:
        document = msgspec.json.decode(body)
        user = document["user"]
        time = user.get("loginDatetime") or document.get("loginDatetime") or document.get("timestamp") or "-"
        return f"{user['id']}@{time}"
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        raise ValueError("not a body of the simulator") from None


def _document(visitor: people.Person, event: schedule.Event, company: Company) -> dict[str, Any]:
    venue_id = company.first_venue + event.venue
    text = event.id_as_text
    return {
        "user": {
            "id": str(visitor.user_id) if text else visitor.user_id,
            "firstName": visitor.first_name,
            "lastName": visitor.last_name,
            "email": visitor.email,
            "mobile": visitor.mobile,
            "gender": visitor.gender,
            "dateOfBirth": visitor.date_of_birth,
            "source": visitor.source,
            "visitCountsForVenue": event.visit_count,
            "device": {"mac": visitor.mac, "platform": "iOS" if event.person % 3 else "Android"},
            "venue": {
                "id": str(venue_id) if text else venue_id,
                "name": f"Venue № {event.venue + 1}",
                "company": {"id": company.id if text else _number(company.id)},
                "timezone": "Europe/London",
            },
            "marketing": {"consent": event.person % 4 != 0, "channels": ["email", "sms"], "consentVersion": 3.1},
        },
        "apiVersion": "2.7",
        "accessPoint": {"name": f"AP-{event.venue}-{event.person % 7}", "ssid": "Guest WiFi ☕", "signal": -61},
        "customFields": [{"key": "room", "value": str(event.person % 400)}, {"key": "loyalty", "value": None}],
    }


def _number(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() else text


def _put_time(document: dict[str, Any], shape: schedule.TimeShape, instant: int) -> None:
    moment = datetime.datetime.fromtimestamp(instant // model.MICROSECONDS, datetime.UTC)
    match shape:
        case schedule.TimeShape.UserOffset:
            zone = datetime.timezone(datetime.timedelta(hours=1))
            document["user"]["loginDatetime"] = moment.astimezone(zone).isoformat()
        case schedule.TimeShape.RootZulu:
            document["loginDatetime"] = f"{moment:%Y-%m-%dT%H:%M:%SZ}"
        case schedule.TimeShape.Epoch:
            document["timestamp"] = int(moment.timestamp())
        case schedule.TimeShape.Local:
            document["user"]["loginDatetime"] = f"{moment:%Y-%m-%d %H:%M:%S}"
        case schedule.TimeShape.Absent:
            pass
