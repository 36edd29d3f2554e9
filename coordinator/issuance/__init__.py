"""The one gate: the only road from a CSR to a certificate."""
