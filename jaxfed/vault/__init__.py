"""The vault: a client that runs plans on data that never leave it.

It needs Python 3.9 or newer and NumPy, and nothing else; JAX is on the server alone.
"""
