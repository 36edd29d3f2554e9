"""Agents: enrollment, identity, and the long poll that is their heartbeat."""
