"""Writers that make the cluster as planned: children, statuses, Events, and the removal guard."""
