"""Scores of a model beside its base: suites that need no network, and the field's own."""
