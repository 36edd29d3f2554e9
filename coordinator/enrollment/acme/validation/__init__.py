"""The validation side of the ACME server: asks the network whether who ordered a name holds it."""
