"""Ask a gateway for /healthz every 2 ms until stdin ends, and print how many milliseconds the slowest answer took.

The admin port and the public port share the event loop, so an arrival would wait as long.
"""

import http.client
import select
import sys
import time


def main(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    slowest = 0.0
    while not select.select([sys.stdin], [], [], 0.002)[0]:
        began = time.monotonic()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        slowest = max(slowest, time.monotonic() - began)
    print(slowest * 1000)


if __name__ == "__main__":
    main(int(sys.argv[1]))
