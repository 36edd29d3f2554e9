"""The installers, in a Debian tree of their own."""
