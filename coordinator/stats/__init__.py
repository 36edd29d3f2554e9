"""Numbers: how many certificates stand how, what ended and was issued on which day."""
