"""The thin coordinator: state, issuance, the queue and the HTTP interface."""
