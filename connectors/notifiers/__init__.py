"""Ways to tell people something, one module each."""
