"""Jobs as values: states, lifecycle and retry. No I/O and no clock reads in this package."""
