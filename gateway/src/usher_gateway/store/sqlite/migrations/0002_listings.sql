-- What listings and the books walk, without a cost for accepting: each index is partial, over rows that are rare or
-- that are written after the answer has gone out. (SQLite keeps the row key as last part of every index.)

-- Open deliveries are counted by route in the index alone.
drop index deliveries_backlog;
create index deliveries_backlog on deliveries (destination, due_at, route) where waiting = 1;

-- Dead and cancelled deliveries, newest last, whatever their destination.
drop index deliveries_dead;
create index deliveries_ended on deliveries (state) where state >= 2;

create index arrivals_quarantined on arrivals (counted_as) where counted_as = 5;
