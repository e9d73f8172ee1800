-- A claim walks over the index entries of deliveries that left the backlog since the last vacuum: about one page for 120.
-- With ten million deliveries, the default (20 %) would let a million of them gather.
alter table deliveries set (autovacuum_vacuum_scale_factor = 0.02);
