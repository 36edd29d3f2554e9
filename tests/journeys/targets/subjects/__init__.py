"""One module for each type of target, named like it; ``SUBJECTS`` lists what is played."""
