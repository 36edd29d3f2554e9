"""The coordinator's own HTTPS: its authority, its leaf, and taking a changed certificate into use."""
