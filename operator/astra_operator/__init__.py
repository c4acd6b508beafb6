"""The Kubernetes operator: thin kopf handlers over pure reconcile functions and pure manifests.

python -m astra_operator      the operator: takes its Lease, then runs kopf
kopf run -m astra_operator    the same under kopf's own command line
"""

from astra_operator import handlers

__all__ = ["handlers"]
