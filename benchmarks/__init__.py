"""Measurements and the demo: real coordinators, agents and TLS servers on one machine. Not part of the wheel."""
