"""A million certificates in one database: how fast lists and single things are, and how many requests a second."""
