"""Cluster: who is within earshot of whom.

Owns:   nothing. Every answer is a pure function of the request.
Serves: ClusterService (Assign: many worlds in a call).
Calls:  nobody.
Never:  keeps state between calls, reads a clock, knows what a cluster is used for.
"""
