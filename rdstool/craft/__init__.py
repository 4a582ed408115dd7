"""Traffic that misbehaves on purpose: scenarios that are played against an RDS endpoint, with what it may answer.

docs/scenarios.md describes their form.
"""
