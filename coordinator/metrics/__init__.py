"""What Prometheus reads; it listens where CERTCTL_METRICS_LISTEN says and needs no key there."""
