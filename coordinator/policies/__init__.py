"""Rules that every certificate is held against, and the violations that are found."""
