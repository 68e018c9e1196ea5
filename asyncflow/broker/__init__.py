"""Doorbells: how consumers learn that steps are ready."""
