"""The inventory: which certificates are wanted, and how each one stands."""
