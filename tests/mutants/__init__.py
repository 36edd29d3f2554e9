"""Code broken on purpose: what the tests must notice, and the proof that they do. ``make mutants``."""
