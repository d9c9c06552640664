"""The systems that a good team would write if it did not use Taskyard."""
