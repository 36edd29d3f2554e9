"""Certificate authorities: their rows, their sealed keys, and what relying parties fetch (issuing certificate, CRL)."""
