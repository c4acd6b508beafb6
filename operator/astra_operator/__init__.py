"""The Kubernetes operator: thin kopf handlers over pure reconcile functions and pure manifests."""
