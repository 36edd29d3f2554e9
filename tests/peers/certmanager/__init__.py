"""cert-manager on a real Kubernetes API server, where ``make peers-cert-manager`` and ``make peers-kubernetes`` ran."""
