"""Skills: what can be learned from a finished trajectory in words, and which step hears which of it.

Extractors find them: by rules (`extract`, with `contrast`), or in the words of a model (`analyze`), which
is one behind an endpoint (`llm`) or the policy itself (`self_extract`); `report` reads what a model wrote. `route`
gives them to steps, `controls` swaps them for wrong ones, `library` keeps them for later episodes.
"""
