"""The cluster as the operator knows it: values, indexes, the cache and the questions that plans ask."""
