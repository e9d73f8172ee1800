-- The last attempts of a delivery, as records of attempt_log.py. Apart from deliveries, because older gateways insert
-- whole rows there.
create table attempts (delivery integer primary key, log blob not null);
