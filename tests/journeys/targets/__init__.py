"""The same six chapters for every type of target, each on the real program."""
