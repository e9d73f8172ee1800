"""Makes the custom resource definitions, what goes with them, and their pages from the typed resources: `make crds`.

It stands outside of the packages: neither the gateway nor the operator needs a schema at run time.
"""
