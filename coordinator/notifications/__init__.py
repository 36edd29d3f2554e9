"""Notifications: what people are told, on which channel, and whether it has arrived."""
