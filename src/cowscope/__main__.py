"""`python -m cowscope`."""

from cowscope.cli.main import main

main()
