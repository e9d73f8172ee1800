"""The simulated Purple's plan: visitors, bodies and their times. Pure, and reproducible from a seed.

A plan is exact, so that its numbers can be compared with those of the gateway. An authentication is either a visitor's
first one at a venue (``Visit``), or follows it within the hour (``Repeat``). The same visitor's next visit is hours
later. Times are microseconds from the start of the plan.

None of the visitors exists: names carry a mark, e-mail addresses end in ``.example``, the country code +999 is
unassigned, and the MAC addresses are locally administered. The marks make it possible to search logs for them.

Source for the bodies: docs/purple.md, The body. They contain unknown fields, because Purple adds fields without notice.
"""

import datetime
import enum
import json
import random
from typing import Any

import msgspec

from usher_gateway import model

DAY_SECONDS = 86_400.0  # The length of a simulated day

# Weights for each hour from midnight on, for a hotel with check-in and breakfast.
HOTEL = (3, 1, 1, 1, 1, 2, 5, 9, 9, 6, 4, 4, 6, 6, 5, 6, 9, 11, 12, 11, 9, 8, 7, 5)

# The same for a cafe with opening hours and two peaks.
CAFE = (0, 0, 0, 0, 0, 0, 2, 8, 12, 10, 7, 8, 14, 13, 9, 8, 8, 7, 4, 2, 1, 0, 0, 0)

# The same for a stadium with one event in the evening.
STADIUM = (0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 3, 3, 4, 8, 30, 80, 40, 20, 25, 6, 1)

FLAT = (1,)  # A constant rate
REPEAT_WITHIN_SECONDS = 2_400.0  # The latest repeat after its visit: within the hour, even with delays
RETURN_AFTER_SECONDS = 9_000.0  # The earliest return of a visitor: more than an hour after any repeat
LATE_SECONDS = (60.0, 120.0)  # The delay of a POST during maintenance or high load. Source: docs/purple.md.
VERY_LATE_SECONDS = (3_600.0, 18_000.0)  # The delay of a POST after an outage

_USUAL_DELAY_SECONDS = (1.0, 6.0)
_VERY_LATE_PART = 0.3


class AuthenticationKind(enum.Enum):
    """How a listener counts an authentication if it dedupes by user and venue within the hour."""

    Visit = "visit"
    Repeat = "repeat"


class TimeShape(enum.Enum):
    """How a body writes its time. Purple does not document it, so the simulator sends all forms."""

    UserOffset = "user.loginDatetime with an offset"
    RootZulu = "loginDatetime in UTC"
    Epoch = "timestamp in epoch seconds"
    Local = "user.loginDatetime without an offset: not trusted"
    Absent = "no time at all"


# The forms that give a listener the exact instant.
TRUSTED_SHAPES = (TimeShape.UserOffset, TimeShape.RootZulu, TimeShape.Epoch)

UNTRUSTED_SHAPES = (TimeShape.Local, TimeShape.Absent)  # The forms with which a listener uses its own clock


class Pattern(msgspec.Struct, frozen=True, kw_only=True):
    """A plan's contents. Shares are fractions of ``authentications``, from 0 to 1, and exact (rounded) if possible.

    They are not exact for redeliveries and hang-ups, which need a first visit, and for lates with an identical body.
    """

    authentications: int = 200
    """First visits and repeats together, without redeliveries."""
    duration_seconds: float = DAY_SECONDS
    curve: tuple[float, ...] = HOTEL
    """Weights for equal parts of the duration."""
    venues: int = 3
    repeats: float = 0.15
    redeliveries: float = 0.02
    """The share that is sent again with the same bytes after the acknowledgement, as after a lost answer."""
    lates: float = 0.03
    hang_ups: float = 0.0
    """The share on which the sender disconnects after the body, before the answer, and retries later."""
    untimed: float = 0.2
    """Share (drawn, not exact) of visitors whose bodies have no trusted time."""
    returning: float = 0.25
    """Share (drawn, not exact) of visits whose visitor was there hours before."""


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One authentication: the person, the venue, the time and its form, and when Purple sends it."""

    kind: AuthenticationKind
    person: int
    """The person's number among the seed's people."""
    venue: int
    visit_count: int
    send: int
    """Microseconds after the start."""
    occurred: int
    """Microseconds after the start, in whole seconds; negative before the start."""
    shape: TimeShape
    id_as_text: bool
    late: bool = False
    redeliver: bool = False
    hang_up: bool = False


class _Group(msgspec.Struct, kw_only=True):
    """A visit and its repeats."""

    person: int
    venue: int
    visit_count: int
    send: float
    shape: TimeShape
    id_as_text: bool
    comes_once: bool
    repeats: list[float] = []

    @property
    def trusted(self) -> bool:
        return self.shape in TRUSTED_SHAPES


def plan(pattern: Pattern, seed: int) -> list[Event]:
    """Return every authentication, ordered by its first request."""
    rng = random.Random(seed)  # noqa: S311 - reproducible on purpose
    repeats = repeats_of(pattern)
    groups = _groups(pattern, pattern.authentications - repeats, rng)
    for _ in range(repeats):
        group = rng.choice(groups)
        latest = min(REPEAT_WITHIN_SECONDS, pattern.duration_seconds - group.send)
        group.repeats.append(group.send + rng.uniform(min(20.0, latest), latest))
    late_count = min(pattern.authentications, round(pattern.authentications * pattern.lates))
    lates = frozenset(rng.sample(range(pattern.authentications), late_count))
    hang_ups, redelivered = _disturbed(pattern, len(groups), rng)
    events: list[Event] = []
    for number, group in enumerate(groups):
        events += _events(group, lates, len(events), rng, (number in redelivered, number in hang_ups))
    events.sort(key=lambda event: event.send)
    return events


def repeats_of(pattern: Pattern) -> int:
    """Return how many authentications in a plan are repeats; at least one is a visit."""
    return max(0, min(pattern.authentications - 1, round(pattern.authentications * pattern.repeats)))


def _disturbed(pattern: Pattern, groups: int, rng: random.Random) -> tuple[frozenset[int], frozenset[int]]:
    """Return two disjoint sets of groups: those with a hang-up, and those with a redelivery."""
    hang_ups = min(groups, round(pattern.authentications * pattern.hang_ups))
    redelivered = min(groups - hang_ups, round(pattern.authentications * pattern.redeliveries))
    chosen = rng.sample(range(groups), hang_ups + redelivered)
    return frozenset(chosen[:hang_ups]), frozenset(chosen[hang_ups:])


def _groups(pattern: Pattern, count: int, rng: random.Random) -> list[_Group]:
    groups: list[_Group] = []
    regulars: list[_Group] = []
    visit_counts: dict[tuple[int, int], int] = {}
    new_person = 0
    for send in _moments(pattern, count, rng):
        venue = rng.randrange(pattern.venues)
        previous = _pop_returning(regulars, send, pattern.returning, rng)
        shape = rng.choice(UNTRUSTED_SHAPES if rng.random() < pattern.untimed else TRUSTED_SHAPES)
        if previous is None:
            person = new_person
            new_person += 1
        else:
            person, shape = previous.person, previous.shape
            previous.comes_once = False
        visit_count = visit_counts[person, venue] = visit_counts.get((person, venue), 0) + 1
        group = _Group(
            person=person, venue=venue, visit_count=visit_count, send=send, shape=shape,
            id_as_text=person % 5 == 0, comes_once=previous is None,
        )  # fmt: skip
        # Without a trusted time, a listener cannot distinguish a late body from a returning visitor.
        if group.trusted:
            regulars.append(group)
        groups.append(group)
    return groups


def _moments(pattern: Pattern, count: int, rng: random.Random) -> list[float]:
    """Return each visit's start in seconds, in ascending order."""
    parts = rng.choices(range(len(pattern.curve)), pattern.curve, k=count)
    return sorted((part + rng.random()) / len(pattern.curve) * pattern.duration_seconds for part in parts)


def _pop_returning(regulars: list[_Group], now: float, part: float, rng: random.Random) -> _Group | None:
    """Remove a visitor who was here hours ago from the regulars, and return that visit."""
    if not regulars or rng.random() >= part:
        return None
    position = rng.randrange(len(regulars))
    if now - regulars[position].send < RETURN_AFTER_SECONDS:
        return None
    regulars[position], regulars[-1] = regulars[-1], regulars[position]
    return regulars.pop()


def _events(
    group: _Group, lates: frozenset[int], number: int, rng: random.Random, disturbed: tuple[bool, bool]
) -> list[Event]:
    """Return a group's authentications.

    ``number`` is the first one's position in the plan; ``disturbed`` says whether to redeliver and to hang up.
    """
    redeliver, hang_up = disturbed
    events: list[Event] = []
    seconds: set[int] = set()
    for send in (group.send, *sorted(group.repeats)):
        first = not events
        identical = not first and (group.shape is TimeShape.Absent or (not group.trusted and rng.random() < 0.5))
        late = not identical and number + len(events) in lates
        occurred = events[0].occurred if identical else _occurred(group, send, late, seconds, rng)
        text = group.id_as_text if first or identical or rng.random() < 0.8 else not group.id_as_text
        events.append(
            Event(
                kind=AuthenticationKind.Visit if first else AuthenticationKind.Repeat,
                person=group.person,
                venue=group.venue,
                visit_count=group.visit_count,
                send=int(send * model.MICROSECONDS),
                occurred=occurred,
                shape=group.shape,
                id_as_text=text,
                late=late,
                redeliver=first and redeliver,
                hang_up=first and hang_up,
            )
        )
    return events


def _occurred(group: _Group, send: float, late: bool, taken: set[int], rng: random.Random) -> int:
    """Return when it happened (microseconds), in a whole second that is unique in the group."""
    delay = rng.uniform(*_USUAL_DELAY_SECONDS)
    if late:
        alone = group.trusted and group.comes_once and not group.repeats
        very = alone and rng.random() < _VERY_LATE_PART
        delay = rng.uniform(*(VERY_LATE_SECONDS if very else LATE_SECONDS))
    second = int(send - delay // 1)
    while second in taken:
        second -= 1
    taken.add(second)
    return second * model.MICROSECONDS


# the visitors and their bodies

MARK = "zqxjv"  # A part of every name and e-mail address of a simulated person, in lower case
MOBILE_MARK = "+999555"  # The prefix of every mobile number of a simulated person
MAC_MARK = "06:5e:ed"  # The prefix of every MAC address of a simulated person
MARKS = (MARK, MOBILE_MARK, MAC_MARK)  # A search for these texts (ignoring case) finds every simulated person

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


def person(seed: int, index: int) -> Person:
    """Return the person with this number among a seed's people."""
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


class Company(msgspec.Struct, frozen=True):
    """A Purple company and its visitors' seed."""

    id: str = "77"
    seed: int = 1
    first_venue: int = 9_100


def body_of(event: Event, company: Company, base: int) -> bytes:
    """Return an authentication's body; ``base`` is the plan's start (microseconds)."""
    visitor = person(company.seed, event.person)
    document = _document(visitor, event, company)
    _put_time(document, event.shape, base + event.occurred)
    # Some senders escape non-ASCII characters (PHP does by default) and others do not, so the bodies do both.
    return json.dumps(document, ensure_ascii=event.person % 2 == 0, separators=(",", ":")).encode()


def sample_body(company: Company, base: int) -> bytes:
    """Return a sample visit as the portal may send to validate an address. No plan uses its person."""
    event = Event(
        kind=AuthenticationKind.Visit,
        person=9_999_999,
        venue=0,
        visit_count=1,
        send=0,
        occurred=0,
        shape=TimeShape.UserOffset,
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


def _document(visitor: Person, event: Event, company: Company) -> dict[str, Any]:
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


def _put_time(document: dict[str, Any], shape: TimeShape, instant: int) -> None:
    moment = datetime.datetime.fromtimestamp(instant // model.MICROSECONDS, datetime.UTC)
    match shape:
        case TimeShape.UserOffset:
            zone = datetime.timezone(datetime.timedelta(hours=1))
            document["user"]["loginDatetime"] = moment.astimezone(zone).isoformat()
        case TimeShape.RootZulu:
            document["loginDatetime"] = f"{moment:%Y-%m-%dT%H:%M:%SZ}"
        case TimeShape.Epoch:
            document["timestamp"] = int(moment.timestamp())
        case TimeShape.Local:
            document["user"]["loginDatetime"] = f"{moment:%Y-%m-%d %H:%M:%S}"
        case TimeShape.Absent:
            pass
