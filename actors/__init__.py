"""The Ray shells: one actor around each running object of a pipeline, and the runtime that places and connects them.

This folder stands at the top of the source tree and is imported and installed as `polku.actors`.
"""
