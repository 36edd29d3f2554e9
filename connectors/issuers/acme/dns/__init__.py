"""Records of DNS challenges: a module of this package with a ``CONFIG_TYPE``, named like its type, writes them.

    base         what writes records has to do; ``registry`` finds it by its type
    answerer     the answer to a challenge: follows delegations, writes, waits, takes away
    lookup       asking the DNS; ``propagation`` waits until all servers of a zone answer alike
    record_sets  values that come and go in sets which are written as a whole; ``zones`` finds the zone of a name

The types are ``acme_dns``, ``azure_dns``, ``cloudflare``, ``google_cloud_dns``, ``rfc2136``, ``route53`` and
``script``. Clouds are signed in at by ``signature_v4`` (Amazon) or ``tokens`` (Google, Microsoft).
"""
