"""Looking whether who ordered a name controls it (RFC 8555 section 8), without a database and without the framework."""
