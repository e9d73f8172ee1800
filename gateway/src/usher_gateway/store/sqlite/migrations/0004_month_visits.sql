-- Visits (counter 1) by listener: a month is counted for a quota without a look at each of its quarter hours.
create index meters_visits on meters (listener, slot, count) where counter = 1;
