"""The listing: server-rendered pages of jobs and workers."""
