"""Records of DNS challenges: a module of this package with a ``CONFIG_TYPE``, named like its type, writes them.

    base         what writes records has to do; ``registry`` finds it by its type
    answerer     the answer to a challenge: follows delegations, writes, waits, takes away
    lookup       asking the DNS; ``propagation`` waits until all servers of a zone answer alike

The types are ``acme_dns``, ``cloudflare``, ``rfc2136`` and ``script``.
"""
