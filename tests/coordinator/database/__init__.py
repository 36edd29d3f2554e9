"""The database package on real servers."""
