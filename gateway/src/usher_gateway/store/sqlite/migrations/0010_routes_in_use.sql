-- Only arrivals up to this row key refer to the definition. When all arrivals have higher ones, retention deletes it.
-- What earlier releases add is never deleted.
alter table routes add column used_key integer not null default 9223372036854775807;
update routes set used_key = coalesce((select max(key) from arrivals), 0) + (86400000 << 15);
create index routes_used on routes (used_key);
