"""Validations for an ACME server: the network is asked whether who ordered a name holds it, from wherever this runs."""
