"""Filters along time."""
