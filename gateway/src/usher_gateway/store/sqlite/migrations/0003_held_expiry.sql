-- Held deliveries that have a time limit: found when it is over, without walking all that are held.
create index deliveries_held_expiry on deliveries (expires_at) where hold > 0 and expires_at > 0;
