"""What only a look inside a process can tell, one package for each language's runtime."""
