"""Foreign clients enrol here: the protocol servers."""
