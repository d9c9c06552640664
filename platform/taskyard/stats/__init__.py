"""Statistics over many jobs, and alarms. Pure: no I/O, no clock reads."""
