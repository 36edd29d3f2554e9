-- Which coordinator runs the loops. Its turn ends at `until` unless it extends it.

CREATE TABLE loops_turn (
  only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
  runner text NOT NULL,
  until timestamptz NOT NULL
);
