import pytest

from usher_gateway import model
from usher_gateway.access.seal import Seals
from usher_gateway.access.tokens import Scope
from usher_gateway.pages.proxies import Proxies

LOOK = {Scope.StatusRead, Scope.VisitsRead}
PRIVACY = {Scope.BodiesRead, Scope.PersonsFind, Scope.PersonsExport, Scope.PersonsErase, Scope.AuditRead}
ROLES = ("desk=look", "ops=operate", "dpo=privacy", "a=b=look")


@pytest.mark.parametrize(
    ("groups", "scopes"),
    [
        ("desk", LOOK),
        ("guests , ops", LOOK | {Scope.DeliveriesWrite, Scope.LinksWrite}),
        ("desk,dpo", LOOK | PRIVACY),
        ("a=b", LOOK),
    ],
)
def test_user_has_the_scopes_of_all_groups(groups: str, scopes: set[Scope]) -> None:
    caller = Proxies(seals=Seals(bytes(32)), roles=ROLES).caller_of("anna", groups)
    assert (caller.name, set(caller.scopes), caller.permitted) == ("user anna", scopes, None)


@pytest.mark.parametrize("role", ["desk", "=look", "desk=", "desk=admin", "desk=look "])
def test_invalid_role_is_refused_with_an_example(role: str) -> None:
    with pytest.raises(model.ConfigurationError, match="is not GROUP=ROLE") as raised:
        Proxies(seals=Seals(bytes(32)), roles=[role])
    assert "desk=look; the roles are look, operate, privacy" in raised.value.hint
