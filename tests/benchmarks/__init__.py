"""The measuring instruments: what they say has to be right."""
