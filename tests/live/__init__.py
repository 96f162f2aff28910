"""Tests that need the live kernel."""
