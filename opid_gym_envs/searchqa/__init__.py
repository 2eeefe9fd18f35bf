"""Search QA: questions that are answered by searching a collection of passages.

An agent is asked a question. In each of four turns it searches or answers; a search shows the three passages that fit
best, and an answer ends the episode and pays 1.0 if it is an accepted one. This is the task of Search-R1 (arXiv
2503.09516), and of OPID's search experiments.

>>> import gymnasium, opid_gym
>>> env = gymnasium.make("opid/SearchQA-v0", split="test")
>>> question, info = env.reset(options={"task_id": "generated/factbook:one-hop:ws:capital"})
>>> question
'What is the capital of Samoa?'
>>> observation, reward, terminated, truncated, info = env.step("search[Samoa capital name]")
>>> observation[:64]
'<information>Doc 1(Title: "Samoa: Government") Samoa. Country na'
>>> observation, reward, terminated, truncated, info = env.step("<think>Apia it is.</think><answer>Apia</answer>")
>>> reward, terminated, info["won"]
(1.0, True, True)

**Observation.** The question; after a search ``<information>Doc 1(Title: "...") ...</information>`` with a line for
each passage; after a turn that was not understood, what is wrong with it. The anchor is the observation.

**Action.** One of ``search[QUERY]``, ``answer[TEXT]``, ``<search>QUERY</search>``, ``<answer>TEXT</answer>``, with or
without a ``<think>`` block before it. Both, or one twice, is a mistake: it costs a turn and does nothing. Actions are
free text, so ``admissible_actions`` is None. Prompts: templates ``search`` (read the replies with
`opid_gym.actions.SEARCH`) and ``search_compact`` (with `opid_gym.actions.BARE`).

**Reward.** With the answer, by name: ``em`` (exact match after normalising), ``sub_em``, ``f1``, ``em_format``
(Search-R1's, which also looks at the form of all turns; other than there, an agent that never shows its reasoning loses
nothing for that: its right answer pays 1 and not 0.8). Without an answer in four turns: 0. ``won`` is an exact match.

**Data.** ``dataset="factbook"`` is embedded: 13,444 passages of the World Factbook and 9,516 questions (one fact, two
facts in a row, a comparison) in splits without a country in common, each with the passages that it takes. Files and
folders of questions and of passages are read in the formats and shapes of ten projects (`tables`, `shapes`):
``dataset=FILE`` with ``corpus=FILE`` or a search server.

**Retrieval.** ``retriever=`` names an engine (`opid_gym_envs.searchqa.retrievers`), a server's address or an object of
yours. All queries of a step of a vector environment go out in one call, equal ones once.

Differences from Search-R1 and OPID's reference, all on purpose:

- Only what the agent says can score. A retrieved passage with ``<answer>...</answer>`` in it earns nothing (in OPID's
  reference it earns 1.0 when the last reply is blank), and cannot close ``<information>`` either: tags of the protocol
  and starts of special tokens in passages are written with ``‹``, and a passage is one line.
- Two tags in one reply are a mistake, as in OPID; Search-R1 takes the first and ignores the rest.
- What is wrong with a turn is said in words of our own, and says what.
- Search-R1 gives an extra turn, in which a search is not done, after the last; here four turns are four.
- Cutting long results (``max_observation_tokens=500`` in Search-R1; off in OPID and here) leaves the closing tag.

| module | what is in it |
|---|---|
| `corpus` | passages, and files of them |
| `questions` | questions, and files of them |
| `tables` | rows of files and folders, in any format |
| `shapes` | which keys of a row hold what |
| `factbook`, `factbook_passages`, `factbook_facts`, `factbook_questions` | the embedded data |
| `scoring` | exact match, sub-EM, F1, the format-aware reward |
| `turns`, `cutting` | the text protocol, both directions, and its limits |
| `env` | the world |
| `expert`, `hindsight` | a solver that knows, and what a turn was worth |
| `retrievers` | search engines behind one protocol |
"""
