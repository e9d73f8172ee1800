"""The page of a receipt shows everything of it, and nothing in it can act."""

import html.parser
import json
from typing import Any

import pytest

from usher_gateway import model
from usher_gateway.admin import receipts
from usher_gateway.pages import receipt_page
from usher_gateway.words import person_words

KEYS = model.derive_keys(bytes(32))
ROW: dict[str, Any] = {
    "id": "01a22a77-c7b1-7000-8405-ab5871621b5a",
    "reference": "DSR-7",
    "status": "completed",
    "receivedAt": "2026-11-30T03:20:01.120Z",
    "completedAt": "2026-11-30T03:20:02.480Z",
    "requestedBy": "desk",
    "fields": ["email"],
    "tenants": 2,
    "since": "2026-10-31T00:00:04.120Z",
    "store": "SQLite",
    "backups": {"days": 35, "goneBy": "2027-01-04T03:20:02.480Z"},
    "arrivals": 3,
    "arrivalsByTenant": {"agency/acme": 2, "agency/globex": 1},
    "deliveries": {"delivered": 1, "dead": 1},
    "sentTo": {
        "agency/crm": {
            "delivered": 1,
            "attempted": 1,
            "firstAt": "2026-11-25T12:00:00.000Z",
            "lastAt": None,
            "forwarded": None,
        }
    },
}


class PageReader(html.parser.HTMLParser):
    """Collects the elements of a page, their attributes and their text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def test_page_shows_request_counts_destinations_and_limits() -> None:
    page = PageReader(receipt_page.render(receipts.sign(ROW, KEYS)))
    shown = " ".join(page.text.split())
    for words in (
        "Request 01a22a77-c7b1-7000-8405-ab5871621b5a",
        "Completed 2026-11-30 03:20:02 UTC",
        "Searched by e-mail address; Usher does not keep it",
        "Oldest visit in the store 2026-10-31 00:00:04 UTC; nothing older is stored",
        "agency/acme 2",
        "All 3",
        "Failed for good 1",
        "agency/crm 1 1 2026-11-25 12:00:00 -",
        "The deleted visits are gone from the files of the store. A body that could not be read is deleted when",
        "Backups of the store are kept for 35 days: those from before the end of the erasure are gone by 2027-01-04",
        *receipts.NOT_REACHED,
    ):
        assert words in shown


def test_page_loads_nothing_and_has_no_script() -> None:
    text = receipt_page.render(receipts.sign(ROW, KEYS))
    page = PageReader(text)
    assert page.elements.isdisjoint({"script", "link", "img", "iframe", "form", "a", "base"})
    assert page.attributes.isdisjoint({"src", "href", "style", "onload", "onclick"})
    assert "url(" not in text
    assert "@import" not in text


def test_page_of_a_cancelled_request_says_that_more_may_be_stored() -> None:
    page = receipt_page.render(receipts.sign(ROW | {"status": "cancelled", "sentTo": {}}, KEYS))
    assert "more may still be stored" in page
    assert person_words.NOT_SENT in page
    assert "Completed" not in page


def test_page_without_a_deleted_visit_has_no_section_about_copies() -> None:
    empty = {"arrivals": 0, "arrivalsByTenant": {}, "deliveries": {}, "sentTo": {}}
    page = receipt_page.render(receipts.sign(ROW | empty, KEYS))
    assert person_words.NO_VISIT in page
    assert "Copies of the store" not in page


def test_copies_are_named_by_the_store_and_without_a_date_if_none_is_stated() -> None:
    on_disk, backups = receipt_page.copies(ROW | {"store": "PostgreSQL", "backups": None})
    assert "until the next vacuum" in on_disk
    assert backups == "Backups may have the visits; the agency has not stated for how long."


@pytest.mark.parametrize(
    ("last_at", "words"),
    [
        ("2026-11-30T03:20:00.000Z", "taken (204)"),
        ("2026-11-30T03:20:01.201Z", "taken (204), but a visit came after it"),
    ],
)
def test_visit_after_the_request_to_a_destination_is_said(last_at: str, words: str) -> None:
    answer = {"at": "2026-11-30T03:20:01.200Z", "status": 204, "error": None}
    sent = ROW["sentTo"]["agency/crm"] | {"lastAt": last_at, "forwarded": answer}
    page = receipt_page.render(receipts.sign(ROW | {"sentTo": {"agency/crm": sent}}, KEYS))
    assert f">{words}</td>" in page


def test_hostile_names_stay_text_and_the_receipt_stays_intact() -> None:
    hostile = '</pre><script>alert("1")</script>\x1b[2J\u202e&lt;{{ 7*7 }}'
    row = ROW | {
        "requestedBy": hostile,
        "arrivalsByTenant": {hostile: 1},
        "sentTo": {hostile: ROW["sentTo"]["agency/crm"]},
    }
    receipt = receipts.sign(row, KEYS)
    page = receipt_page.render(receipt)
    assert "script" not in PageReader(page).elements
    assert {"\x1b", "\u202e"}.isdisjoint(page)
    assert "{{ 7*7 }}" in page
    parsed = receipts.parse(receipt_page.signed_text(page))
    assert receipts.is_intact(parsed)
    assert json.dumps(parsed) == json.dumps(receipt)
