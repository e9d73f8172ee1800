-- Who asked for a replay (store.base.ReplayRequest.requester), by whom replays are counted.
alter table replays add column requester bytea not null default '';
create index replays_requester on replays (requester, created_at);
