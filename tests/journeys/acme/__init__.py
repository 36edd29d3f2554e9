"""Unmodified ACME clients against a server: what each of them can is asked for, and what came of it is looked at."""
