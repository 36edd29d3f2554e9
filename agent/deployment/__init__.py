"""The deploy transaction: the only code that changes a target host, and undoes what it changed when a step fails."""
