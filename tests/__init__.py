"""Mirrors the source folders; ``journeys`` plays whole stories on real software."""
