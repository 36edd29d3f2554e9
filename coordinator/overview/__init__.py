"""What a page and a watcher look at first: the overview, the horizon, the map of the fleet, the search."""
