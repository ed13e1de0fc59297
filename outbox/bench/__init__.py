"""Measure this library against the least that the same work could cost, in the same run."""
