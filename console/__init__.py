"""What operators type: a pure client of the coordinator's HTTP interface."""
