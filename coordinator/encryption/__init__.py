"""The keys that stored secrets are sealed with, and going over from one to the next while serving."""
