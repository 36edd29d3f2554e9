"""The soak: a whole platform under one fault after another, and the checker's word on what was lost or done twice."""
