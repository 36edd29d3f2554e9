-- Answers that are shown, among which those are looked for that an order has left.
CREATE INDEX ca_challenges_shown ON ca_challenges (order_id) WHERE state IN ('wanted', 'shown', 'failed');
