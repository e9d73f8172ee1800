"""The objects of a release whose store is PostgreSQL."""

from typing import Any

from support import charts

POSTGRESQL = "--set=store.type=PostgreSQL,store.postgresql.secret.name=database"
STATEFULSET = ("StatefulSet", "usher-system/usher-gateway")
DEPLOYMENT = ("Deployment", "usher-system/usher-gateway")
BUDGET = ("PodDisruptionBudget", "usher-system/usher-gateway")
POLICY = ("NetworkPolicy", "usher-system/usher-gateway")


def deployment(*arguments: str) -> Any:
    return charts.objects(POSTGRESQL, *arguments)[DEPLOYMENT]["spec"]


def container(workload: Any) -> Any:
    (only_container,) = workload["template"]["spec"]["containers"]
    return only_container


def test_store_type_replaces_the_stateful_set_by_a_deployment() -> None:
    sqlite, postgresql = charts.objects(), charts.objects(POSTGRESQL)
    assert STATEFULSET in sqlite
    assert DEPLOYMENT not in sqlite
    assert sqlite.keys() - postgresql.keys() == {STATEFULSET}
    assert postgresql.keys() - sqlite.keys() == {DEPLOYMENT, BUDGET}


def test_number_of_gateways_follows_the_store_unless_it_is_set() -> None:
    assert charts.objects()[STATEFULSET]["spec"]["replicas"] == 1
    assert deployment()["replicas"] == 3
    assert deployment("--set=gateway.replicaCount=2")["replicas"] == 2


def test_update_starts_a_new_pod_before_it_stops_an_old_one() -> None:
    assert deployment()["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
    }


def test_address_of_the_database_comes_from_its_secret_only() -> None:
    (address,) = [variable for variable in container(deployment())["env"] if variable["name"] == "USHER_STORE"]
    assert address == {"name": "USHER_STORE", "valueFrom": {"secretKeyRef": {"name": "database", "key": "uri"}}}
    assert not [argument for argument in container(deployment())["args"] if "store" in argument]


def test_all_replicas_wait_for_the_same_install_key() -> None:
    """An optional reference would let each pod start without it."""
    (key,) = [variable for variable in container(deployment())["env"] if variable["name"] == "USHER_INSTALL_KEY"]
    assert key["valueFrom"] == {"secretKeyRef": {"name": "usher-install-key", "key": "install.key"}}


def test_pods_keep_nothing_but_a_cache() -> None:
    volumes = {volume["name"]: volume for volume in deployment()["template"]["spec"]["volumes"]}
    assert volumes.keys() == {"data", "tokens", "tmp"}
    assert volumes["data"]["emptyDir"].keys() == {"sizeLimit"}


def test_named_authority_makes_the_gateway_verify_the_server() -> None:
    gateway = container(deployment("--set=store.postgresql.caSecret.name=authority"))
    environment = {variable["name"]: variable.get("value") for variable in gateway["env"]}
    (mount,) = [volume_mount for volume_mount in gateway["volumeMounts"] if volume_mount["name"] == "database-ca"]
    assert environment["PGSSLMODE"] == "verify-full"
    assert environment["PGSSLROOTCERT"] == f"{mount['mountPath']}/ca.crt"
    assert "PGSSLMODE" not in {variable["name"] for variable in container(deployment())["env"]}


def test_autoscaler_sets_the_replicas_instead_of_the_deployment() -> None:
    assert "replicas" not in deployment("--set=gateway.autoscaling.enabled=true")


def test_budget_lets_one_of_several_gateways_be_drained() -> None:
    def budget(*values: str) -> Any:
        disruption_budget = charts.objects(POSTGRESQL, *(f"--set=gateway.{value}" for value in values)).get(BUDGET)
        return disruption_budget and disruption_budget["spec"]["maxUnavailable"]

    assert budget() == 1
    assert budget("autoscaling.enabled=true") == 1
    assert budget("replicaCount=1") is None
    assert budget("replicaCount=1", "podDisruptionBudget.enabled=true") == 0
    assert budget("podDisruptionBudget.enabled=false") is None


def test_policy_lets_gateways_connect_to_the_database() -> None:
    def ports(*arguments: str) -> list[Any]:
        return [
            rule
            for rule in charts.objects(*arguments)[POLICY]["spec"]["egress"]
            if {"port": 5432} in rule.get("ports", ())
        ]

    assert ports() == []
    assert ports(POSTGRESQL) == [{"ports": [{"port": 5432}]}]


HOOK = "--set=store.postgresql.migrations=Hook"
JOB = ("Job", "usher-system/usher-migration")


def test_hook_migrates_before_the_gateways_of_a_release_start() -> None:
    objects = charts.objects(POSTGRESQL, HOOK)
    assert JOB not in charts.objects(POSTGRESQL)
    assert objects[JOB]["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    job, gateway = container(objects[JOB]["spec"]), container(objects[DEPLOYMENT]["spec"])
    assert job["args"] == ["usher", "migrate"]
    assert job["env"][0]["valueFrom"]["secretKeyRef"] == {"name": "database", "key": "uri"}
    assert job["image"] == gateway["image"]
    assert "--no-migrate" in gateway["args"]
    assert "--no-migrate" not in container(deployment())["args"]


def test_hook_is_not_tried_again_after_wrong_settings() -> None:
    """Exit code 2 of `usher migrate`: a flag, the password or the rights of the user are wrong."""
    spec = charts.objects(POSTGRESQL, HOOK)[JOB]["spec"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule == {
        "action": "FailJob",
        "onExitCodes": {"containerName": container(spec)["name"], "operator": "In", "values": [2]},
    }


def test_hook_is_restricted_and_has_no_account_of_the_cluster() -> None:
    spec = charts.objects(POSTGRESQL, HOOK)[JOB]["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert not spec["automountServiceAccountToken"]
    assert container(charts.objects(POSTGRESQL, HOOK)[JOB]["spec"])["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
