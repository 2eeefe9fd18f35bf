"""Agents for text worlds: language-model policies, and OPID, the learner that distils hindsight skills into them."""
