-- Times are microseconds UTC, except those of incarnations, which are the database's clock. Keys of arrivals and
-- deliveries are those of model/identifiers.py. Enumerations are the numbers of usher_gateway.model. Nothing from a body
-- is stored as text.

create table meta (name text primary key, value text not null);

-- The runs of gateways. A delivery in a lane belongs to one of them.
create table incarnations (
    number bigint primary key,          -- when it began, by the database's clock
    slot smallint not null unique,      -- part of the row keys that it makes, so that two gateways never make the same
    beat_at timestamptz not null,       -- the last heartbeat
    ended_at timestamptz                -- when it stopped, or another gateway found it dead; it may commit nothing since
);
-- The destinations in the configuration of each gateway. A gateway leaves deliveries to others that know their destination.
create table known_destinations (
    incarnation bigint primary key references incarnations on delete cascade,
    destinations text[] not null        -- namespace/name
);

-- Names, each once, so that rows stay slim. A number is a digest of its name (store/names.py).
create table listeners (
    number bigint primary key,
    namespace text not null, tenant text not null, listener text not null,
    unique (namespace, tenant, listener)
);
create table destinations (number bigint primary key, key text not null unique);
create table routes (
    number bigint primary key,
    listener bigint not null, destination bigint not null, name text not null,
    definition bytea not null           -- model.RouteDefinition as JSON
);

-- The ledger: one row per accepted arrival.
create table arrivals (
    key bigint primary key,
    id bytea not null,
    listener bigint not null,
    received_at bigint not null,
    visit_time bigint not null,
    counted_as smallint not null,
    flags smallint not null,            -- store/encodings.py
    reason smallint not null,           -- model.QuarantineReason, or 0
    hops smallint not null,
    body_size integer not null,
    fingerprint bytea not null,
    visitor bytea not null,
    persons bytea not null,             -- person keys, 8 bytes each
    verdicts bytea not null             -- [[route, skip reason or 0, delivery key or 0], ...] as MessagePack
);
create index arrivals_quarantined on arrivals (key) where counted_as = 5;

-- Bodies are apart from the ledger, so that walking the ledger does not read them. A body outlives its pending
-- deliveries; afterwards body becomes null, and the row stays until its arrival may be forgotten too.
create table bodies (
    key bigint primary key,
    expires_day integer not null,       -- days since the epoch
    content_type bytea,
    body bytea
);
create index bodies_expiry on bodies (expires_day, key);

-- What dedupe looks up. Accepting locks these rows, so that of two equal arrivals at two gateways one waits for the other.
create table prints (
    fingerprint bytea primary key,
    arrival bigint not null,
    received_at bigint not null,
    unacknowledged boolean not null
);
create table sightings (
    visitor bytea primary key,
    batch bigint not null,              -- the batch that inserted the row, by its first row key
    times bigint[] not null             -- visit times of accepted visits
);
create table once_marks (mark bytea primary key, until bigint not null);
create index once_marks_until on once_marks (until);
create table persons (person bytea not null, arrival bigint not null, primary key (person, arrival));

create table deliveries (
    key bigint primary key,
    id bytea not null,
    arrival bigint not null,
    route bigint not null,
    destination bigint not null,
    state smallint not null default 0,
    hold smallint not null,             -- model.HoldReason, or 0; negative: the filter has not decided
    waiting boolean not null,           -- true: in the backlog; false: in a lane, held or settled
    owner bigint not null,              -- the incarnation that claimed it last; 0 if none may settle it
    attempts integer not null default 0,
    due_at bigint not null,             -- while held: since when
    created_at bigint not null,
    started_at bigint not null,
    expires_at bigint not null,
    settled_at bigint not null default 0,
    origin smallint not null default 0,
    cancel smallint not null default 0,
    status smallint not null default 0,
    error text not null default '',     -- a code
    answer bytea,
    replay bigint                       -- key of the replay that created it; null: none
);
-- A claim walks over the index entries of deliveries that left the backlog since the last vacuum: about one page for 120.
-- With ten million deliveries, the default (20 %) would let a million of them gather.
alter table deliveries set (autovacuum_vacuum_scale_factor = 0.02);
create index deliveries_backlog on deliveries (destination, due_at, route) where waiting;
create index deliveries_claimed on deliveries (owner, route) where state = 0 and hold <= 0 and not waiting;
create index deliveries_held on deliveries (hold, route, key) where hold > 0;
create index deliveries_held_expiry on deliveries (expires_at) where hold > 0 and expires_at > 0;
create index deliveries_ended on deliveries (state, key) where state >= 2;
create index deliveries_dead_by_route on deliveries (route) where state = 2;
create index deliveries_extra on deliveries (arrival, route) where origin > 0;
create index deliveries_forbidden on deliveries (due_at) where waiting and error = 'AddressForbidden';
create index deliveries_replayed on deliveries (replay, state, hold) where replay is not null;

-- What people asked to deliver again. A step creates deliveries and moves the place on, in one transaction.
create table replays (
    key bigint primary key,
    id bytea not null,
    request bytea not null,             -- store.base.ReplayRequest as JSON
    state smallint not null,            -- store.base.ReplayState
    created_at bigint not null,
    ended_at bigint not null,           -- 0: not yet
    place text not null,                -- a cursor over the arrivals; empty: at the newest one
    next_at bigint not null,            -- when the next step may be taken
    report bytea not null               -- store.base.ReplayReport as JSON
);

-- Persons to erase, and what was erased. A step deletes arrivals and counts them, in one transaction.
create table erasures (
    key bigint primary key,
    id bytea not null,
    request bytea not null,             -- store.base.ErasureRequest as JSON; its person keys go at the end
    state smallint not null,            -- store.base.ErasureState
    created_at bigint not null,
    ended_at bigint not null,           -- 0: not yet
    report bytea not null               -- store.base.ErasureReport as JSON
);

-- Persons of whom nothing is stored or sent any more.
create table suppressed (
    person bytea primary key,           -- a person key
    tenant text not null,               -- namespace/name
    since bigint not null
);

-- What opens the pages of one tenant to a customer. Times: 0: not yet.
create table links (
    id text primary key,
    tenant text not null,               -- namespace/name
    digest bytea not null unique,       -- SHA-256 of the token
    created_at bigint not null,
    expires_at bigint not null,
    shows_visits smallint not null,      -- 0 or 1: also the last visits, with initials
    opened_at bigint not null default 0,
    used_at bigint not null default 0,
    revoked_at bigint not null default 0
);

-- Who looked at a person or a body, and who changed what. Without personal data.
create table audit_entries (
    key bigint primary key,
    id bytea not null,
    at bigint not null,
    who text not null,
    action text not null,
    selection bytea not null,           -- JSON
    count integer not null,
    peer text not null                  -- the caller's address; empty: unknown
);

-- The last attempts of a delivery (store/encodings.py).
create table attempts (delivery bigint primary key, log bytea not null);

-- Each commit adds one row with its counts: [[listener, slot, counter, count], ...] as MessagePack. A folder moves them
-- into meters. After a lost connection, the row shows whether the commit took effect.
create table commits (
    incarnation bigint not null, number bigint not null, counts bytea not null,
    is_void boolean not null default false,     -- true: the commit did not take effect, and never will
    primary key (incarnation, number)
);
create table meters (
    listener bigint not null, slot bigint not null, counter smallint not null, count bigint not null,
    primary key (slot, listener, counter)
);
create index meters_visits on meters (listener, slot) include (count) where counter = 1;

-- When each listener was used. One row per listener, rewritten as a whole.
create table activity (
    listener bigint primary key,
    last_arrival_at bigint not null,
    first_visits bytea not null,        -- {Address.id: microseconds} as MessagePack
    retired_arrivals bytea not null     -- {Address.id: microseconds} as MessagePack
);

-- What the attempts at each destination's present URL brought. One row per destination, rewritten as a whole.
create table destination_activity (
    destination text primary key,       -- namespace/name
    url_digest bytea not null,
    has_succeeded smallint not null,    -- 0 or 1
    error text not null,                -- the code of the last failure; empty: none
    status smallint not null,
    failed_at bigint not null,
    failing_since bigint not null,
    failures bigint not null,
    recovered_at bigint not null        -- 0: not yet
);
