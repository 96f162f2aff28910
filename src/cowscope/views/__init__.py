"""Findings to rows, rows to paint: terminal, JSON, CSV."""
