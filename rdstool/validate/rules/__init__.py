"""The rules: a module for each area, named as the ids of its rules are in protocol.md's appendix."""
