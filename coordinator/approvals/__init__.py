"""Approvals: what the gate asks persons about before it signs, and what they say."""
