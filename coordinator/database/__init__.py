"""How the coordinator keeps its state: the pool, wake-ups, migrations, and an embedded PostgreSQL for one node."""
