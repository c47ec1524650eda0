"""LIBERO (Liu et al. 2023): a Franka Panda on tables and floors, 130 tasks in five suites."""
