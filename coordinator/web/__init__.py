"""HTTP in and out: the route table and all that is generated from it."""
