"""A sender that behaves like Purple, and a receiver. Users run both from the command line, and tests embed them.

Use them as ``from usher_gateway import simulator`` and ``simulator.Simulator``, ``simulator.Receiver``.
"""

from usher_gateway.simulator.books import SenderBooks, SimulationBooks, Verdict, judge_books
from usher_gateway.simulator.receiver import Received, Receiver, ReceiverSettings
from usher_gateway.simulator.receiving import EVERY_PATH, Behaviour, Command, PathCounts, Signature
from usher_gateway.simulator.schedule import (
    CAFE,
    FLAT,
    HOTEL,
    MARKS,
    STADIUM,
    Company,
    Pattern,
    Person,
    marker,
    plan,
)
from usher_gateway.simulator.sender import Simulator
from usher_gateway.simulator.settings import SimulatorSettings, SimulatorTarget
