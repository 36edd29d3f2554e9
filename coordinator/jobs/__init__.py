"""The queue: attempts, their leases and their history."""
