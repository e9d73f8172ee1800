-- Fill an empty store: DUE deliveries wait for each of DESTINATIONS systems that answer, and the rest of PENDING for a
-- dead one, which is the destination number 1.

insert into arrivals
    select number, uuid_send(gen_random_uuid()), 1, number, number, 1, 0, 0, 0, 1200, int8send(number),
        int8send(number), '', '\x90'
    from generate_series(1, DESTINATIONS * DUE) number;

insert into bodies select key, 100000, 'application/json', decode(repeat('00', 1200), 'hex') from arrivals;

insert into deliveries
        (key, id, arrival, route, destination, hold, waiting, owner, due_at, created_at, started_at, expires_at)
    select one.number, uuid_send(gen_random_uuid()), 1 + one.number % (DESTINATIONS * DUE), routes.number,
        routes.destination, 0, true, 0, one.number, 0, 0, 0
    from generate_series(1, PENDING) one (number) join routes on routes.destination =
        case when one.number <= DESTINATIONS * DUE then 2 + one.number % DESTINATIONS else 1 end;

analyze;
