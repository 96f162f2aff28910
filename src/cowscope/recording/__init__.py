"""Recordings: their schema, the raw journal they grow from, writer and reader. No live kernel here."""
