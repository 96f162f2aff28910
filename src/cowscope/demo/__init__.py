"""Small programs to try cowscope on."""
