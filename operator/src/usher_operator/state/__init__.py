"""What the operator knows of the cluster: its values, its indexes, its cache and the questions that plans ask."""
