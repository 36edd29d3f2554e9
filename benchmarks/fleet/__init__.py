"""Thousands of agents in a few processes: everything of each agent is real but the servers that it looks after.

Real are identity keys, keystore, key generation, CSRs, the deployment engine with its files, and one HTTPS connection
per agent to a coordinator process. A simulated server loads the deployed files when it is told to reload, and shows
what it loaded.

    python -m benchmarks.fleet                      the benchmark, ``make bench-fleet``
    python -m benchmarks.fleet.process CONFIG.json  one process of agents, see ``config``
"""
