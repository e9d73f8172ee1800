"""Makes the custom resource definitions and their reference pages from the typed resources: `make crds`.

It is not part of the packages, because neither the gateway nor the operator needs a schema at run time.
"""
