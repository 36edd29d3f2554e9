"""Sessions of people in a browser: a cookie, its limits, and what guards it against other sites."""
