"""Target connectors: one module per kind of server that a certificate can be installed in."""
