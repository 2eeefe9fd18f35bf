"""Skills: what can be learned from a finished trajectory in words (`extract`), and which step hears which of
it (`route`)."""
