// Modules of which only files are taken: the custom resource definitions that Usher's children and the chart must satisfy.
module usher.dev/tests/cluster/foreign_crds

go 1.26.0

require (
	github.com/cert-manager/cert-manager v1.21.2
	github.com/prometheus-operator/prometheus-operator v0.85.0
	sigs.k8s.io/gateway-api v1.6.3
)
