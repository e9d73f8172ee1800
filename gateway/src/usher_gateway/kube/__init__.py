"""The Kubernetes client that the gateway and the operator share: credentials, requests, and list with watch."""
