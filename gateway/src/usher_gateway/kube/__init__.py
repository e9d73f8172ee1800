"""The Kubernetes client that the gateway and the operator share: credentials, requests, and list with watch."""


def is_older(version: str, than: str) -> bool:
    """Return whether a resourceVersion is older. API servers on etcd have numbers; anything else is not comparable."""
    return version.isdecimal() and than.isdecimal() and int(version) < int(than)
