"""What is to be seen of a running pipeline: its statistics as one tree, metrics, and the address where both are served.

General layout:

- `statistics` is the tree, `collector` makes it of what each part counts;
- `metrics` is the table of metrics, `exposition` writes them for Prometheus;
- `admin` serves both and health, over `http1`, a small HTTP server that costs no import.
"""
