-- Who asked for a replay (store.base.ReplayRequest.requester), by whom replays are counted.
alter table replays add column requester blob not null default x'';
create index replays_requester on replays (requester, created_at);
