"""Findings: what a recording and its replay amount to. Pure; frozen dataclasses out."""
