-- Deliveries whose last attempt met a forbidden address: due at once after a restart, which may allow the address.
create index deliveries_forbidden on deliveries (due_at) where waiting = 1 and error = 'AddressForbidden';
