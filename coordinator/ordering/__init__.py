"""Certificates that are ordered from authorities elsewhere, which take their time.

queue         an order is put here by the issuance gate, a revocation by whoever revokes
working       orders in hand: taken by one coordinator at a time, worked off beside the requests
obtaining     one order from its names to its certificate
challenges    answers to challenges: shown by agents, or in the DNS from here
accounts      accounts at authorities, their keys, connections
revoking      telling an authority of a revocation
renewing      asking an authority when to renew
"""
