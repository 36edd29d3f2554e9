"""The ACME server, asked by a client that can also misbehave."""
