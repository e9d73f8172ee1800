"""The operator's picture of the cluster: values, indexes, the cache and the questions that plans ask."""
