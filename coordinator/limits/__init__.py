"""How much a caller may ask: budgets of requests in this process, and of guesses and the like for all replicas."""
