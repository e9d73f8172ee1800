"""The made-up visitors, and the bodies that Purple would post for them. Pure.

None of these people exists: names carry a mark, e-mail addresses end in ``.example``, the country code +999 is
unassigned, and the MAC addresses are locally administered. The marks make it possible to search logs for any of them.

Source: purple.md, The body. Bodies contain unknown fields, because Purple adds fields without notice.
"""

import datetime
import json
import random
from typing import Any

import msgspec

from usher_gateway import model
from usher_gateway.simulator import schedule

MARK = "zqxjv"
"""A part of every name and e-mail address of a simulated person, in lower case."""

MOBILE_MARK = "+999555"
"""The prefix of every mobile number of a simulated person."""

MAC_MARK = "06:5e:ed"
"""The prefix of every MAC address of a simulated person."""

MARKS = (MARK, MOBILE_MARK, MAC_MARK)
"""A search for these texts (ignoring case) finds every simulated person."""

_FIRST_USER_ID = 10_000_000
_PEOPLE_PER_SEED = 10_000_000
_FIRST_NAMES = ("Anaïs", "Björn", "Chloé", "Dmitri", "Élodie", "Fatima", "Grace", "Hòa", "İpek", "João", "李娜", "Zoë")
_LAST_NAMES = ("O'Neill", "Müller", "García", "Ångström", "Nowak", "Smith", "Иванова", "Sørensen", "d'Arc", "山田")
_SOURCES = ("email", "facebook", "google", "form", "sms")
_GENDERS = ("female", "male", "other", "")


class Person(msgspec.Struct, frozen=True):
    """A visitor. ``user_id`` is unique over seeds below 100,000."""

    user_id: int
    first_name: str
    last_name: str
    email: str
    mobile: str
    mac: str
    gender: str
    date_of_birth: str
    source: str

    @property
    def marks(self) -> tuple[str, ...]:
        """The values that must not appear where personal data does not belong."""
        return (self.first_name, self.last_name, self.email, self.mobile, self.mac)


def person(seed: int, index: int) -> Person:
    """Return the person with this number among the people of a seed."""
    rng = random.Random(seed * _PEOPLE_PER_SEED + index)  # noqa: S311 - it must be reproducible
    tag = f"{MARK}{seed % 100_000:x}n{index:x}"
    number = rng.randrange(10**8)
    return Person(
        user_id=_FIRST_USER_ID + (seed % 100_000) * _PEOPLE_PER_SEED + index,
        first_name=f"{rng.choice(_FIRST_NAMES)} {tag}",
        last_name=f"{rng.choice(_LAST_NAMES)}-{tag}",
        email=f"{tag}@visitors.example",
        mobile=f"{MOBILE_MARK}{number:08d}",
        mac=f"{MAC_MARK}:{index >> 16 & 0xFF:02x}:{index >> 8 & 0xFF:02x}:{index & 0xFF:02x}",
        gender=rng.choice(_GENDERS),
        date_of_birth=f"{rng.randrange(1940, 2008)}-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}",
        source=rng.choice(_SOURCES),
    )


def people(seed: int, count: int) -> list[Person]:
    """Return the first ``count`` people of a seed, which are the people that a plan of this seed sends."""
    return [person(seed, index) for index in range(count)]


class Company(msgspec.Struct, frozen=True):
    """A Purple company and the seed of its visitors."""

    id: str = "77"
    seed: int = 1
    first_venue: int = 9_100

    def person(self, index: int) -> Person:
        """Return the visitor with this number."""
        return person(self.seed, index)


def body_of(event: schedule.Event, company: Company, base: int) -> bytes:
    """Return the body of an authentication; ``base`` is the start of the plan (microseconds)."""
    visitor = company.person(event.person)
    document = _document(visitor, event, company)
    _put_time(document, event.shape, base + event.occurred)
    # Some senders escape non-ASCII characters (PHP does by default) and others do not, so the bodies do both.
    return json.dumps(document, ensure_ascii=event.person % 2 == 0, separators=(",", ":")).encode()


def sample_body(company: Company, base: int) -> bytes:
    """Return a sample visit as the portal may send to validate an address. No plan uses its person."""
    event = schedule.Event(
        kind=schedule.AuthenticationKind.Visit,
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
    """Return a text that identifies an authentication: ``user id@time``, with ``-`` if the body has no time.

    Different contents have different markers. A redelivery, or a repeat with the same content, has the same marker.

    Raises:
        ValueError: the simulator did not make this body.
    """
    try:
        document = msgspec.json.decode(body)
        user = document["user"]
        time = user.get("loginDatetime") or document.get("loginDatetime") or document.get("timestamp") or "-"
        return f"{user['id']}@{time}"
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        raise ValueError("not a body of the simulator") from None


def _document(visitor: Person, event: schedule.Event, company: Company) -> dict[str, Any]:
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
