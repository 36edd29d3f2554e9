"""Owners: the people who answer for certificates, and where they are told of trouble."""
