"""What a team would write instead of using Taskyard, written as a good team would."""
