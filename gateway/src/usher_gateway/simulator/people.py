"""The people of the simulation: reproducible from a seed, and marked, so that a search of logs finds every one.

Nobody here exists: names carry a mark, e-mail addresses end in ``.example``, the country code +999 is unassigned,
and the MAC addresses are locally administered.
"""

import random

import msgspec

MARK = "zqxjv"
"""Part of every name and e-mail address of a simulated person, in lower case, and of nothing else."""

MOBILE_MARK = "+999555"
"""What every mobile number of a simulated person begins with."""

MAC_MARK = "06:5e:ed"
"""What every MAC address of a simulated person begins with."""

MARKS = (MARK, MOBILE_MARK, MAC_MARK)
"""What to search (ignoring case) to find any person of any seed."""

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
        """The values that must not turn up where personal data does not belong."""
        return (self.first_name, self.last_name, self.email, self.mobile, self.mac)


def person(seed: int, index: int) -> Person:
    """The person with this number among the people of a seed."""
    rng = random.Random(seed * _PEOPLE_PER_SEED + index)  # noqa: S311 - reproducible on purpose
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
    """The first ``count`` people of a seed: those that a plan of this seed sends."""
    return [person(seed, index) for index in range(count)]
