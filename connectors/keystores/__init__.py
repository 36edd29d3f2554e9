"""Keystores as bytes: PKCS#12 and JKS, read, changed in one entry, and written. No I/O."""
