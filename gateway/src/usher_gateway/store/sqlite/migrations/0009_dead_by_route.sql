-- Dead deliveries are counted by route in this index alone.
create index deliveries_dead_by_route on deliveries (route) where state = 2;
