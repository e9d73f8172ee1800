-- How many bytes each listener stores: counter 19 of the meters, in slot -1. 1024 stands for the rows of an arrival.
insert into meters (listener, slot, counter, count)
    select listener, -1, 19, sum(length(body) + 1024) from bodies join arrivals on arrivals.key = bodies.key
    where body is not null group by listener;
