-- How many bytes each listener stores: counter 19 of the meters, in slot -1. 512 stands for the rows of an arrival, and for each of its deliveries.
insert into meters (listener, slot, counter, count)
    select listener, -1, 19, sum(length(body) + 512 + 512 * coalesce(deliveries, 0))
    from bodies join arrivals on arrivals.key = bodies.key
    left join (select arrival, count(*) deliveries from deliveries where origin < 2 group by arrival) made
    on made.arrival = bodies.key
    where body is not null group by listener;
