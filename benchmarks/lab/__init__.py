"""A small fleet on this machine, for the demo, the measurements and the journeys of the test suite."""
