-- Fill a store with VISITS visits of 0.8 KB that are DAYS days old and delivered, ten rows each. Their day of expiry has
-- come. Each visitor came twice. The listeners and the route 1 exist.

insert into arrivals
    select number, uuid_send(gen_random_uuid()), 1 + number % LISTENERS, at, at, 1, 1, 0, 0, 800, sha256(int8send(number)),
        substring(sha256(int4send((number % (VISITS / 2))::integer)) for 16),
        substring(sha256(int8send(-number)) for 32),
        '\x91930100cf'::bytea || int8send(number)
    from generate_series(1::bigint, VISITS) number,
        lateral (select (extract(epoch from now())::bigint - DAYS * 86400) * 1000000 + number as at) received;

insert into bodies select key, received_at / 86400000000 + 31, 'application/json', decode(repeat('7b', 800), 'hex')
    from arrivals where key <= VISITS;

insert into prints select fingerprint, key, received_at, false from arrivals where key <= VISITS order by fingerprint;

insert into sightings select visitor, 0, array_agg(visit_time order by visit_time) from arrivals
    where key <= VISITS group by visitor order by visitor;

insert into persons select substring(persons from place for 8), key
    from arrivals, unnest(array[1, 9, 17, 25]) place where key <= VISITS order by 1, 2;

insert into deliveries (key, id, arrival, route, destination, state, hold, waiting, owner, attempts, due_at, created_at,
        started_at, expires_at, settled_at, status)
    select key, id, key, 1, 1, 1, 0, false, 1, 1, received_at, received_at, received_at, 0, received_at, 200
    from arrivals where key <= VISITS;

insert into attempts select key, decode(repeat('00', 38), 'hex') from arrivals where key <= VISITS;
