-- The circuits that are open, at all gateways.
create table circuits (
    destination integer primary key,
    trial_at timestamptz not null,      -- when a gateway may claim the next trial
    claimed_by bigint not null,         -- the run that claimed the last trial; 0: none
    error text not null                 -- of the last failed attempt
);
