"""What is known of many jobs at once. Pure: no I/O, no clock reads."""
