"""A Kubernetes API server with etcd, built by ``make peers-kubernetes``, and a double of it for Secrets."""
