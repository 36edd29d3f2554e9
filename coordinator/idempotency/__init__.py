"""Requests that may be repeated: under one ``Idempotency-Key`` something is made once, and the answer kept."""
