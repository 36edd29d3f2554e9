"""Signing in at an OpenID provider: a real one in a process of its own, and one that lies."""
