"""The proof: one scenario runs on the vm and on the live kernel, and both are compared after every step.

Scenarios are text (`scenario`, `parser`); `model` plays them on the vm, `kernel` on real processes;
`comparison` looks at both. Not here: painting, and the command line.
"""
