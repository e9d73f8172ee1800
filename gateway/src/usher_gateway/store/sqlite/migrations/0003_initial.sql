-- Times are microseconds UTC. Keys of arrivals and deliveries are those of model/identifiers.py: they only grow.
-- Enumerations are the numbers of usher_gateway.model. Nothing from a body is stored as text.

create table meta (name text primary key, value text not null) without rowid;

-- Names, each once, so that rows stay slim. A number is a digest of its name (store/names.py).
create table listeners (
    number integer primary key,
    namespace text not null, tenant text not null, listener text not null,
    unique (namespace, tenant, listener)
);
create table destinations (number integer primary key, key text not null unique);
create table routes (
    number integer primary key,
    listener integer not null, destination integer not null, name text not null,
    definition blob not null            -- model.RouteDefinition as JSON
);

-- The ledger: one row per accepted arrival, only ever appended (but for the mark unacknowledged, and retention).
create table arrivals (
    key integer primary key,
    id blob not null,
    listener integer not null,
    received_at integer not null,
    visit_time integer not null,
    counted_as integer not null,
    flags integer not null,             -- 1 trusted time, 2 late, 4 unacknowledged, 8 released, 16 first of its content, 128 other company, 256 untrusted time
    reason integer not null,            -- model.QuarantineReason, or 0
    hops integer not null,
    body_size integer not null,
    fingerprint blob not null,
    visitor blob not null,
    persons blob not null,              -- person keys, 8 bytes each
    verdicts blob not null              -- [[route, skip reason or 0, delivery key or 0], ...] as MessagePack
);
create index arrivals_quarantined on arrivals (counted_as) where counted_as = 5;

-- Bodies are apart from the ledger, so that walking the ledger does not read them. A body outlives its pending
-- deliveries; afterwards body becomes null, and the row stays until its arrival may be forgotten too.
create table bodies (
    key integer primary key,
    expires_day integer not null,       -- days since the epoch
    content_type blob,
    body blob
);
create index bodies_expiry on bodies (expires_day);

-- What dedupe looks up. Rows of the ledger up to meta.folded_to are in these tables; newer ones are in memory, and
-- folded in sorted order, because single random inserts would write one page each.
create table prints (print integer primary key, arrival integer not null);
create table sightings (
    visitor integer not null, visit_time integer not null,
    primary key (visitor, visit_time)
) without rowid;
-- One segment per thousand arrivals: appended, never spread over the whole table. Looked up once per segment; those of
-- the arrivals after meta.persons_to are in the ledger alone.
create table person_segments (segment integer primary key, first_arrival integer not null, last_arrival integer not null);
create table persons (
    segment integer not null, person blob not null, arrival integer not null,
    primary key (segment, person, arrival)
) without rowid;

create table once_marks (mark blob primary key, until integer not null) without rowid;
create index once_marks_until on once_marks (until);

create table deliveries (
    key integer primary key,
    id blob not null,
    arrival integer not null,
    route integer not null,
    destination integer not null,
    state integer not null default 0,
    hold integer not null,              -- model.HoldReason, or 0; negative: the filter has not decided
    waiting integer not null,           -- 1: in the backlog; 0: in a lane, held or settled
    owner integer not null default 0,   -- 0, because only one gateway uses this store
    attempts integer not null default 0,
    due_at integer not null,            -- while held: since when
    created_at integer not null,
    started_at integer not null,
    expires_at integer not null,
    settled_at integer not null default 0,
    origin integer not null default 0,
    cancel integer not null default 0,
    status integer not null default 0,
    error text not null default '',     -- a code
    answer blob,
    replay integer                      -- key of the replay that created it; null: none
);
-- Each index is partial, so that it stays small. Accepting writes only that of claimed deliveries. (SQLite keeps the row
-- key as last part of every index.)
create index deliveries_backlog on deliveries (destination, due_at) where waiting;
create index deliveries_backlog_by_route on deliveries (route) where waiting;
create index deliveries_claimed on deliveries (route) where state = 0 and hold <= 0 and not waiting;
create index deliveries_held on deliveries (hold, route) where hold > 0;
create index deliveries_held_expiry on deliveries (expires_at) where hold > 0 and expires_at > 0;
create index deliveries_ended on deliveries (state) where state >= 2;
create index deliveries_dead_by_route on deliveries (route) where state = 2;
create index deliveries_extra on deliveries (arrival, route) where origin > 0;
create index deliveries_forbidden on deliveries (due_at) where waiting and error = 'AddressForbidden';
create index deliveries_replayed on deliveries (replay, state, hold) where replay is not null;

-- What people asked to deliver again. A step creates deliveries and moves the place on, in one transaction.
create table replays (
    key integer primary key,
    id blob not null,
    request blob not null,              -- store.base.ReplayRequest as JSON
    state integer not null,             -- store.base.ReplayState
    created_at integer not null,
    ended_at integer not null,          -- 0: not yet
    place text not null,                -- a cursor over the arrivals; empty: at the newest one
    next_at integer not null,           -- when the next step may be taken
    report blob not null                -- store.base.ReplayReport as JSON
);

-- Persons to erase, and what was erased. A step deletes arrivals and counts them, in one transaction.
create table erasures (
    key integer primary key,
    id blob not null,
    request blob not null,              -- store.base.ErasureRequest as JSON; its person keys go at the end
    state integer not null,             -- store.base.ErasureState
    created_at integer not null,
    ended_at integer not null,          -- 0: not yet
    report blob not null                -- store.base.ErasureReport as JSON
);

-- Persons of whom nothing is stored or sent any more.
create table suppressed (
    person blob primary key,            -- a person key
    tenant text not null,               -- namespace/name
    since integer not null
) without rowid;

-- What opens the pages of one tenant to a customer. Times: 0: not yet.
create table links (
    id text primary key,
    tenant text not null,               -- namespace/name
    digest blob not null unique,        -- SHA-256 of the token
    created_at integer not null,
    expires_at integer not null,
    shows_visits integer not null,      -- 0 or 1: also the last visits, with initials
    opened_at integer not null default 0,
    used_at integer not null default 0,
    revoked_at integer not null default 0
) without rowid;

-- Who looked at a person or a body, and who changed what. Without personal data.
create table audit_entries (
    key integer primary key,
    id blob not null,
    at integer not null,
    who text not null,
    action text not null,
    selection blob not null,            -- JSON
    count integer not null,
    peer text not null                  -- the caller's address; empty: unknown
);

-- The last attempts of a delivery (store/encodings.py).
create table attempts (delivery integer primary key, log blob not null);

create table meters (
    listener integer not null, slot integer not null, counter integer not null, count integer not null,
    primary key (slot, listener, counter)
) without rowid;
-- Visits (counter 1) by listener: a month is counted for a quota without a look at each of its quarter hours.
create index meters_visits on meters (listener, slot, count) where counter = 1;

-- When each listener was used, which its conditions need after a restart. One row per listener, rewritten as a whole.
create table activity (
    listener integer primary key,
    last_arrival_at integer not null,
    first_visits blob not null,         -- {Address.id: microseconds} as MessagePack
    retired_arrivals blob not null      -- {Address.id: microseconds} as MessagePack
);

-- What the attempts at each destination's present URL brought. One row per destination, rewritten as a whole.
create table destination_activity (
    destination text primary key,       -- namespace/name
    url_digest blob not null,
    has_succeeded integer not null,    -- 0 or 1
    error text not null,                -- the code of the last failure; empty: none
    status integer not null,
    failed_at integer not null,
    failing_since integer not null,
    failures integer not null,
    recovered_at integer not null        -- 0: not yet
) without rowid;
