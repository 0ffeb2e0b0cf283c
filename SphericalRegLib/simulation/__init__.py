"""X-rays simulated with another physics, another interpolant and a finer step than the registration's renderer."""
