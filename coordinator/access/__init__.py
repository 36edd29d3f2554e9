"""Who calls: API keys with roles, and the sessions of agents."""
