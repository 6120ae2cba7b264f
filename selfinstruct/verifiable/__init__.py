"""Constraints on an answer that a program can check: putting them on a task, and telling whether they are kept."""
