"""The commands from an empty cluster to the example agency.

docs/install.md shows the same ones, with `--set image.repository=…` for a cluster whose nodes do not have the image.
"""

IMAGE = "usher:0.1.0"  # The image that the chart and examples/kubernetes use by default

# Create the cluster, and give it the image.
CLUSTER = f"""
kind create cluster --name usher --config examples/kubernetes/kind.yaml --wait 2m
make image IMAGE={IMAGE}
kind load docker-image {IMAGE} --name usher
"""

# Install an Ingress controller and cert-manager, in versions that fit examples/kubernetes/traefik-values.yaml.
ROUTES = """
helm upgrade --install traefik traefik --repo https://traefik.github.io/charts --version 39.0.9 \\
  --namespace traefik --create-namespace --values examples/kubernetes/traefik-values.yaml --wait
helm upgrade --install cert-manager cert-manager --repo https://charts.jetstack.io --version v1.21.2 \\
  --namespace cert-manager --create-namespace --set crds.enabled=true --wait
"""

# Install Usher, and check the install.
USHER = """
kubectl create namespace agency
helm upgrade --install usher charts/usher --namespace usher-system --create-namespace \\
  --values examples/kubernetes/values.yaml --wait
helm test usher --namespace usher-system
"""

# Apply the class and the example agency, with a receiver in the cluster, and wait until its URL is served.
AGENCY = """
kubectl apply --filename=examples/kubernetes/class.yaml
kubectl apply --filename=examples/kubernetes/receiver.yaml
kubectl rollout status deployment/receiver --namespace=agency
kubectl apply --filename=examples/kubernetes/agency.yaml
kubectl wait --for=condition=Ready --timeout=3m --namespace=agency \\
  listeners.usher.dev/lobby destinations.usher.dev/crm
"""

# The first visits: print the URL, post to it as Purple does, and look at what arrived.
VISIT = """
kubectl get secret lobby-url --namespace=agency --template='{{.data.url | base64decode}}'
usher simulate --visits 10 --retry-after 5 --insecure --connect 127.0.0.1:443 URL
kubectl logs deployment/receiver --namespace=agency
kubectl exec usher-gateway-0 --namespace=usher-system -- usher usage
"""


# Commands that fail if they have been done already: how to find that out, and what a second run does instead.
REPEATS = {
    "kind create cluster": ("kind get kubeconfig --name usher", "kind export kubeconfig --name usher"),
    "kubectl create namespace": ("kubectl get namespace agency", None),
}


def commands(*texts: str) -> list[str]:
    """Return the commands of texts, each on one line."""
    lines = "".join(texts).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip()]
