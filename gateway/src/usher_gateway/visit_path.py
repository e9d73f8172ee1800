"""The page to read first: accept_arrival(), a list of steps, no other logic."""

from usher_gateway.ingest import accept, answers, find, server
from usher_gateway.ingest import door as doors


async def accept_arrival(door: doors.Door, request: server.Request) -> answers.Answer:
    """One arrival, from its header to its answer. Every step may refuse; only what is durable is acknowledged."""
    found: find.Found | None = None
    try:
        now = door.clock.now()
        found = door.locate(request, now)
        door.authenticate(found, request)
        raw, parsed = await door.read(found, request)
        if parsed.is_probe:
            door.count_probe(found, now)
            return answers.accepted()
        arrival = await door.understand(found, request, raw, parsed, now)
        del parsed  # hundreds of objects: not to be held until the commit (docs/performance.md)
        accepted = await accept.commit(door.store, door.deadlines, arrival, request.deadline)
        door.count_accepted(found, arrival, accepted, request)
        door.deliver(accepted.deliveries)
        return answers.accepted()
    except answers.RefusedError as refusal:
        door.count_refused(found, refusal.reason)
        return answers.refused(refusal.reason)
    except Exception as error:  # noqa: BLE001 - a fault of ours: answered, counted, and no end of the connection
        return answers.refused(door.count_failed(found, error))
