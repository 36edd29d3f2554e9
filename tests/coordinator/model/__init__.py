"""The queue predicted: a model of leases, states and retries, and a machine that compares it with the real one."""
