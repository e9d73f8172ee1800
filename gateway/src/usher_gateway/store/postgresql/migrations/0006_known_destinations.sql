-- The destinations in the configuration of each gateway. A gateway leaves deliveries to others that know their destination.
create table known_destinations (
    incarnation bigint primary key references incarnations on delete cascade,
    destinations text[] not null        -- namespace/name
);
