"""How wrong poses are, measured on many cases: metrics, tables, benchmarks and experiments."""
