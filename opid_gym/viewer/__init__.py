"""Runs and trajectories as one self-contained web page: `opid-gym view DIR`.

`opid_gym.viewer.reading` finds what a folder holds, `opid_gym.viewer.page` puts it into one HTML file that asks the
network for nothing, and `opid_gym.viewer.command` serves or writes it. The page's own code is in ``assets/``.
"""
