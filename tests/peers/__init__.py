"""Real programs that are not packaged where the tests run, and doubles for where they cannot be had."""
