"""A Kubernetes control plane on this machine, for `make run-kubernetes`, the tests and the benchmarks."""
