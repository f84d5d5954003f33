"""Several hosts on one machine, as network namespaces, and what becomes of a pipeline on them when they fail."""
