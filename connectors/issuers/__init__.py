"""Certificate authorities that sign what the gate let through."""
