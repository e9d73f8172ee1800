-- When each listener was used, which its conditions need after a restart. One row per listener, rewritten as a whole.
create table activity (
    listener integer primary key,
    last_arrival_at integer not null,
    first_visits blob not null,         -- {Address.id: microseconds} as MessagePack
    retired_arrivals blob not null      -- {Address.id: microseconds} as MessagePack
);
-- Earlier versions kept only the counts of each quarter of an hour.
insert into activity
    select listener, max(slot) * 1000000, x'80', x'80' from meters where counter in (1, 2, 3, 5) and slot > 0
    group by listener;
