"""ALFWorld: text households in which an agent finds, prepares and places things.

``problem`` reads game files, ``game`` compiles them, ``engine`` plays them with exactly the original's text; ``stock``
runs the original itself, if installed, behind the same interface.
"""
