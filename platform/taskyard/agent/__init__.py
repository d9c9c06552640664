"""The execution agent: presence, runner, and what it does with the operating system."""
