"""Profiles: what may be issued. Renewal policies, teams and owners have their ready-made rows from here too."""
