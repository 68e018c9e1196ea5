"""Conformance suites and helpers for people who extend asyncflow."""
