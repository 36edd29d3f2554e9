"""What the coordinators do by themselves, on whichever of them has the turn."""
