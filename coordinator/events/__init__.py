"""What happens, told as it happens: server-sent events out of the audit trail."""
