"""The audit trail: what happened, by whom, in the transaction of the change itself."""
