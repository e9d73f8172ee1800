"""The largest object that an API server stores stops no list of the operator."""

import secrets

import pytest

from support import api, clusters
from usher_gateway.kube import client
from usher_operator.app import Operator
from usher_operator.settings import OperatorSettings


@pytest.mark.filterwarnings("ignore:Sending a large body")
async def test_largest_secret_of_an_agency_does_not_end_the_list(
    cluster: clusters.Cluster, server: api.Api, namespace: str
) -> None:
    """JSON writes some characters as six, so that it is much longer than what etcd limits."""
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "<" * 1_500_000, "uid": secrets.token_hex(4)}
    about = {"name": "giant", "namespace": namespace, "ownerReferences": [owner]}
    await server.create({"apiVersion": "v1", "kind": "Secret", "metadata": about})
    operator = Operator(OperatorSettings(kubeconfig=cluster.kubeconfig), {})
    async with operator.watch_api as watching:
        pages = watching.pages(f"/api/v1/namespaces/{namespace}/secrets", client.JsonObject)
        names = [raw["metadata"]["name"] async for page in pages for raw in page.items]
    assert "giant" in names
