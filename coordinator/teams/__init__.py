"""Teams: who certificates and their owners belong to."""
