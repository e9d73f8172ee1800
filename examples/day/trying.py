"""What to try while everything runs."""

import argparse
import os
from pathlib import Path

from day import cluster, sending


def text(reached: cluster.Cluster, arguments: argparse.Namespace) -> str:
    """Commands that work as they stand, in a terminal of the repository's folder."""
    call = reached.kubectl
    listen, admin, manifests = arguments.listen, arguments.admin, _shown(arguments.manifests)
    logs = _shown(reached.folder)
    times = round(sending.DAY_SECONDS / arguments.seconds)
    return f"""
Everything goes on running (Ctrl-C ends it). What to try in another terminal:

  export KUBECONFIG={call.kubeconfig}
  alias k='{_shown(call.program)} --namespace={cluster.AGENCY}'

  how it is       k get usher                             # and why: k describe listener hotels
  a live edit     k edit listener hotels                  # take a route away: in force within a second
  break a Secret  k delete secret mailer-token            # mailer says so; what was in force stays in force
  mend it         k apply --server-side -f {manifests}/secrets.yaml
  delete a tenant k delete tenant stadium                 # its listeners answer 404 in a few seconds
  take it back    k apply --server-side -f {manifests}/stadium.yaml   # at the same URLs
  a URL           k get secret hotels-url --template='{{{{.data.url | base64decode}}}}'
  the portal      .venv/bin/usher simulate --validate-only --company {sending.PLANS[0].company} --connect {listen} \\
                      "$(k get secret hotels-url --template='{{{{.data.url | base64decode}}}}' | sed s/https/http/)"
  the books       .venv/bin/usher usage --admin http://{admin} --data {logs}/tokens
  metrics         curl -s http://{admin}/metrics http://{arguments.operator}/metrics | grep '^usher_'
  logs            tail -f {logs}/operator.log {logs}/gateway.log

The gateway's clock runs {times} times as fast: after {arguments.seconds:.0f} s without a visit a listener is Silent.
"""


def _shown(path: Path) -> str:
    """Short, where that leads there too."""
    short = os.path.relpath(path)
    return str(path) if short.startswith("..") else short
