"""Targets: the places where certificates are installed, each in one agent's hands."""
