"""Agent groups: agents by what they say of their hosts, and by name."""
