"""One module for each client; ``CLIENTS`` lists what is played."""
