"""The dashboard: server-rendered pages of jobs, workers, the overview and the system."""
