"""Pages show the buttons and the menu that the token permits; the API says what that is."""

from pathlib import Path
from unittest import mock

from support import admin_port, browsing
from usher_gateway.access import tokens

LOOK = {"Overview", "Visits", "Replays", "Usage"}
ALL = LOOK | {"Find", "Erasures", "Links", "Audit"}


def menu_of(page: browsing.Page) -> set[str]:
    """Return the names in the menu of a page."""
    menu = page.text.partition("<nav")[2].partition("</nav>")[0]
    return {name for name in ALL if f">{name}</a>" in menu}


async def pages_with_buttons(served: admin_port.Served, token: str) -> str:
    """Return the text of the pages that have buttons."""
    dead = (await served.get("/api/deliveries?state=dead"))["rows"][0]["visit"]
    async with browsing.opened(served, token) as browser:
        paths = [
            f"/ui/visits/{dead}",
            "/ui/listeners/agency/lobby",
            "/ui/destinations/agency/crm",
            "/ui/tenants/agency/acme",
        ]
        return " ".join([(await browser.get(path)).text for path in paths])


BUTTONS = (
    "Replay this visit…",
    "Show the body",
    "Show the whole URL",
    "Send the sample to crm",
    "links for this customer",
)


async def test_token_that_may_all_gets_every_button(served: admin_port.Served) -> None:
    text = await pages_with_buttons(served, served.tokens.operate)
    assert [button for button in BUTTONS if f">{button}</" in text] == list(BUTTONS)


async def test_token_that_may_look_gets_no_button(served: admin_port.Served) -> None:
    text = await pages_with_buttons(served, served.tokens.observe)
    assert [button for button in BUTTONS if f">{button}</" in text] == []


async def test_limited_token_gets_no_sample_because_that_is_about_all(served: admin_port.Served) -> None:
    limited = served.create_token("limited", list(tokens.Scope), tenants=("agency/acme",))
    text = await pages_with_buttons(served, limited)
    assert [button for button in BUTTONS if f">{button}</" not in text] == ["Send the sample to crm"]


async def test_menu_has_the_pages_that_the_token_may_see(served: admin_port.Served) -> None:
    limited = served.create_token("limited", list(tokens.Scope), tenants=("agency/acme",))
    menus = []
    for token in (served.tokens.operate, served.tokens.observe, limited):
        async with browsing.opened(served, token) as browser:
            menus.append(menu_of(await browser.get("/ui/")))
    assert menus == [ALL, LOOK, ALL - {"Audit"}]


async def test_person_page_has_the_requests_that_the_token_permits(served: admin_port.Served) -> None:
    scopes = [tokens.Scope.StatusRead, tokens.Scope.VisitsRead, tokens.Scope.PersonsFind]
    finder = served.create_token("finder", scopes)
    eraser = served.create_token("eraser", [*scopes, tokens.Scope.PersonsErase])
    words = []
    for token in (finder, eraser):
        async with browsing.opened(served, token) as browser:
            page = await browser.send("/ui/find", await browser.get("/ui/find"), value="ada@example.com")
            words.append(page.words)
    assert ["Erase…" in text for text in words] == [False, True]
    assert "Export" not in words[0]


async def test_api_tells_name_scopes_and_limits_of_a_token(served: admin_port.Served) -> None:
    scopes = [tokens.Scope.StatusRead, tokens.Scope.LinksWrite]
    limited = served.create_token("desk", scopes, namespaces=("berlin",), tenants=("agency/acme",))
    _, answer = await served.ask("GET", "/api/whoami", token=limited)
    assert answer == {
        "name": "desk",
        "scopes": ["links:write", "status:read"],
        "permitted": ["agency/acme", "berlin/*"],
    }
    _, answer = await served.ask("GET", "/api/whoami", token=served.tokens.observe)
    assert answer == {"name": "observe", "scopes": ["status:read", "visits:read"], "permitted": None}


async def test_api_tells_nothing_to_a_stranger(served: admin_port.Served) -> None:
    assert (await served.ask("GET", "/api/whoami", token="stranger"))[0] == 401


async def test_kubernetes_user_gets_all_buttons_because_its_scopes_are_unknown(tmp_path: Path) -> None:
    async def caller_of(_: str, scope: tokens.Scope) -> tokens.Caller:
        return tokens.Caller("anna", frozenset({scope}), frozenset({"agency/*"}), has_unknown_scopes=True)

    cluster = mock.Mock(caller_of=caller_of)
    async with admin_port.served(tmp_path, kubernetes_tokens=cluster) as served:
        _, answer = await served.ask("GET", "/api/whoami", token="a.b.c")
        async with browsing.opened(served, "a.b.c") as browser:
            page = await browser.get("/ui/")
    assert answer == {"name": "anna", "scopes": None, "permitted": None}
    assert menu_of(page) == ALL
