"""The boards as files."""

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from boards import agency, gateway, operator, tenant

FOLDER = "charts/usher/files/dashboards"

_BOARDS = {"agency": agency, "tenant": tenant, "gateway": gateway, "operator": operator}


def files() -> dict[str, str]:
    """Return the path below the repository -> content of each board."""
    encoder = JSONEncoder(sort_keys=True, indent=1)
    return {f"{FOLDER}/{name}.json": encoder.encode(module.build().build()) + "\n" for name, module in _BOARDS.items()}
