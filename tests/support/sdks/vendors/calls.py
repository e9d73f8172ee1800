"""Makes one call of a vendor's own SDK to a local server; runs with the packages of ``support.vendor_sdks``.

``python calls.py VENDOR BASE_URL``: the call for the visitor below, as the vendor's documentation makes it.
"""

import sys

VISITOR = {"email": "jane.doe@example.com", "first": "Jane", "last": "Doe"}


def hubspot(base: str) -> None:
    from hubspot import HubSpot
    from hubspot.crm.contacts import BatchInputSimplePublicObjectBatchInputUpsert

    client = HubSpot(access_token="replace-me")
    contacts = client.crm.contacts.batch_api
    contacts.api_client.configuration.host = base
    properties = {"email": VISITOR["email"], "firstname": VISITOR["first"], "lastname": VISITOR["last"]}
    inputs = [{"id": VISITOR["email"], "idProperty": "email", "properties": properties}]
    contacts.upsert(BatchInputSimplePublicObjectBatchInputUpsert(inputs=inputs))


def mailchimp(base: str) -> None:
    import hashlib

    import mailchimp_marketing

    client = mailchimp_marketing.Client()
    client.set_config({"api_key": "replace-me-us1", "server": "us1"})
    client.api_client.host = base + "/3.0"
    member = hashlib.md5(VISITOR["email"].encode()).hexdigest()
    document = {
        "email_address": VISITOR["email"],
        "status_if_new": "subscribed",
        "merge_fields": {"FNAME": VISITOR["first"], "LNAME": VISITOR["last"]},
    }
    client.lists.set_list_member("replace-me", member, document, skip_merge_validation=True)


def klaviyo_event(base: str) -> None:
    from klaviyo_api import KlaviyoAPI

    client = KlaviyoAPI("replace-me", max_delay=1, max_retries=1)
    client.Events.api_client.configuration.host = base
    profile = {"email": VISITOR["email"], "first_name": VISITOR["first"], "last_name": VISITOR["last"]}
    client.Events.create_event(
        {
            "data": {
                "type": "event",
                "attributes": {
                    "unique_id": "1",
                    "properties": {"venue": "Pier"},
                    "metric": {"data": {"type": "metric", "attributes": {"name": "Visited venue"}}},
                    "profile": {"data": {"type": "profile", "attributes": profile}},
                },
            }
        }
    )


def klaviyo_profile(base: str) -> None:
    from klaviyo_api import KlaviyoAPI

    client = KlaviyoAPI("replace-me", max_delay=1, max_retries=1)
    client.Profiles.api_client.configuration.host = base
    profile = {"email": VISITOR["email"], "first_name": VISITOR["first"], "last_name": VISITOR["last"]}
    client.Profiles.create_or_update_profile({"data": {"type": "profile", "attributes": profile}})


def brevo(base: str) -> None:
    import sib_api_v3_sdk

    configuration = sib_api_v3_sdk.Configuration()
    configuration.api_key["api-key"] = "replace-me"
    configuration.host = base + "/v3"
    contact = sib_api_v3_sdk.CreateContact(
        email=VISITOR["email"],
        attributes={"FIRSTNAME": VISITOR["first"], "LASTNAME": VISITOR["last"]},
        list_ids=[1],
        update_enabled=True,
    )
    sib_api_v3_sdk.ContactsApi(sib_api_v3_sdk.ApiClient(configuration)).create_contact(contact)


def salesforce(base: str) -> None:
    import hashlib

    from simple_salesforce import Salesforce

    client = Salesforce(instance_url=base, session_id="t", version="64.0")
    person = hashlib.sha256(VISITOR["email"].encode()).hexdigest()
    document = {"Email": VISITOR["email"], "FirstName": VISITOR["first"], "LastName": VISITOR["last"]}
    contact = client.Contact
    contact.base_url = contact.base_url.replace("https:", "http:")  # the library knows only https
    contact.upsert(f"Usher_Id__c/{person}", document)


def bigquery(base: str) -> None:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery as library

    client = library.Client("project", credentials=AnonymousCredentials(), client_options={"api_endpoint": base})
    client.insert_rows_json("project.dataset.table", [{"visit_id": "1"}], row_ids=["1"])


def google_token(base: str) -> None:
    """The token request of a service account, whose key comes from standard input."""
    from google.auth.transport.requests import Request
    from google.oauth2 import service_account

    info = {
        "client_email": "usher@x.example",
        "private_key": sys.stdin.read(),
        "private_key_id": "k1",
        "token_uri": base + "/token",
        "type": "service_account",
    }
    scopes = ["https://www.googleapis.com/auth/bigquery.insertdata"]
    service_account.Credentials.from_service_account_info(info, scopes=scopes).refresh(Request())


def slack(base: str) -> None:
    from slack_sdk.webhook import WebhookClient

    WebhookClient(base + "/services/T0000/B0000/replace-me").send(text="A guest came to Pier (visit 3)")


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
