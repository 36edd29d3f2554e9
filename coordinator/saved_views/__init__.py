"""Views that people save: a list, its filters and its sort, under a name."""
