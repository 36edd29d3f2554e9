"""Everything that knows one foreign system, one module each; runs under asyncio and Trio alike."""
