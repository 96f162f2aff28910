"""A recording through the vm: a verdict for each fault, what each fork shared, and how it agrees with censuses."""
