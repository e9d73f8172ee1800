"""A sender that behaves like Purple, and a receiver; both are products in themselves, and both can be embedded.

Use as ``from usher_gateway import simulator`` and ``simulator.Simulator``, ``simulator.Receiver``.
"""

from usher_gateway.simulator.behaviour import EVERY_PATH, Behaviour, Command
from usher_gateway.simulator.bodies import Company, marker
from usher_gateway.simulator.books import Books, ListenerBooks
from usher_gateway.simulator.people import MARKS, Person
from usher_gateway.simulator.receiver import Received, Receiver, ReceiverSettings
from usher_gateway.simulator.schedule import CAFE, FLAT, HOTEL, STADIUM, Pattern, people_needed, plan
from usher_gateway.simulator.sender import Simulator
from usher_gateway.simulator.settings import SimulatorSettings, Target
from usher_gateway.simulator.tally import Counts
from usher_gateway.simulator.verdict import Circumstances, Verdict, judge_books
from usher_gateway.simulator.verify import Signature

__all__ = [
    "CAFE",
    "EVERY_PATH",
    "FLAT",
    "HOTEL",
    "MARKS",
    "STADIUM",
    "Behaviour",
    "Books",
    "Circumstances",
    "Command",
    "Company",
    "Counts",
    "ListenerBooks",
    "Pattern",
    "Person",
    "Received",
    "Receiver",
    "ReceiverSettings",
    "Signature",
    "Simulator",
    "SimulatorSettings",
    "Target",
    "Verdict",
    "judge_books",
    "marker",
    "people_needed",
    "plan",
]
