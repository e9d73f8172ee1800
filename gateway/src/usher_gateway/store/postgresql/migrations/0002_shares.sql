-- The newest run for which a run has lowered its shares of the destinations' limits.
alter table incarnations add column seen bigint not null default 0;
