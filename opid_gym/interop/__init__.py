"""Bridges to other projects' formats and protocols; each imports what it needs when it is used."""
