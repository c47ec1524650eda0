"""Meta-World (Yu et al. 2020; McLean et al. 2025): 50 tasks of a Sawyer arm on a table."""
