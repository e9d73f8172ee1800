"""Look at what a TLS server serves, as a client that trusts only one authority sees it."""

import http.client
import socket
import ssl
from pathlib import Path

from cryptography import x509


def serial_number(hostname: str, authority: Path) -> int:
    """Return the serial number of a hostname's certificate.

    Raises:
        OSError: The server cannot be reached, or its certificate is not valid.
    """
    context = ssl.create_default_context(cafile=authority)
    with (
        socket.create_connection((hostname, 443), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=hostname) as secure,
    ):
        certificate = secure.getpeercert(binary_form=True)
        assert certificate is not None
        return x509.load_der_x509_certificate(certificate).serial_number


def serves(hostname: str, path: str, authority: Path) -> bool:
    """Return whether a probe of a URL is answered as a webhook answers, over a valid certificate."""
    context = ssl.create_default_context(cafile=authority)
    connection = http.client.HTTPSConnection(hostname, timeout=10, context=context)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
    except OSError:
        return False
    else:
        return answer.status == 200 and answer.headers.get("wifiWebhookListener") == "1"
    finally:
        connection.close()
