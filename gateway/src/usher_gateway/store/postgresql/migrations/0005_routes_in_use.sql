-- Only arrivals up to this row key refer to the definition. When all arrivals have higher ones, retention deletes it.
-- Gateways of earlier releases do not know of it, so what they add is never deleted.
alter table routes add column used_key bigint not null default 9223372036854775807;
update routes set used_key = coalesce((select max(key) from arrivals), 0) + (86400000::bigint << 15);
create index routes_used on routes (used_key);
