"""Scores of a model beside its base: suites that need no network."""
