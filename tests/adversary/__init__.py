"""Hostile environments, run through the product's own interface.

    probes     what a hostile tool tries, one class of attack each, and how success would show
    arenas     where it tries: in the real sandbox at every level, and in a naive server (the positive control)
    naive      that naive server: a loop over pickles, no containment
    python -m adversary    prints the table (from the folder `tests`; `make adversary`)

A probe counts only because it succeeds in the naive server: a test that cannot fail proves nothing.
"""
