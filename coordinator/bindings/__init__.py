"""Desired state: what every target should serve and was last seen to serve, and the reconciler that closes the gap."""
