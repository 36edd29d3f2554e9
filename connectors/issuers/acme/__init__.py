"""The client end of ACME (RFC 8555): certificates from Let's Encrypt and every other authority that speaks it.

    config        what an issuer of type ``acme`` is made of
    jose          what is signed, with which key
    problems      an authority's refusals as errors of certctl
    transport     HTTP with deadlines, sizes and trust
    client        one directory: its nonces, signed requests
    accounts      finding, registering, changing and closing an account; ``zerossl`` gets its credentials
    challenges    what has to be shown for a name
    state         what is kept of an order
    orders        an order from its names to its certificate, which may be left and taken up at any point
    certificates  chains that were downloaded, and whether they are what was ordered
    renewal_info  when an authority wants a certificate renewed (RFC 9773)
    revocation    revoking
    failover      several authorities in order
    dns           writing the records of DNS challenges

Everything runs on asyncio and on Trio. What has to be kept (account keys, states of orders) is the caller's to keep.
"""

from __future__ import annotations

from connectors.issuers.acme.config import ACMEConfig

CONFIG_TYPE = ACMEConfig
