"""The same thing done to many certificates: planned, followed, cancelled, and counted exactly."""
