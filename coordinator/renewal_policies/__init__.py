"""Renewal policies: when certificates are renewed, how often in vain, and who is told."""
