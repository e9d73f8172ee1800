"""Ask a gateway for /healthz every 2 ms until stdin ends, and print how many milliseconds the slowest answer took.

An empty line says that the first answer is there.
The admin port and the public port share the event loop, so an arrival would wait as long.
"""

import http.client
import select
import sys
import time


def main(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    ask(connection)
    print(flush=True)
    slowest = 0.0
    while not select.select([sys.stdin], [], [], 0.002)[0]:
        began = time.monotonic()
        ask(connection)
        slowest = max(slowest, time.monotonic() - began)
    print(slowest * 1000)


def ask(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/healthz")
    connection.getresponse().read()


if __name__ == "__main__":
    main(int(sys.argv[1]))
