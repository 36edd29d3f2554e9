"""Changes that nobody asked for and somebody should hear of."""
