"""The recorder: starts or attaches, drains rings, follows forks, and turns raw bytes into a recording."""
