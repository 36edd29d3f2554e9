"""What agent and coordinator agree on, without I/O: values, rules, codecs and state machines."""
