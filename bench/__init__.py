"""Measurements that anyone can repeat: they start their own servers and end by themselves.

    python -m bench                 every scenario, three runs each
    python -m bench drain --runs 5

Nothing here gates: the clock is reported, with the median and the range of the runs. What is
compared is run in turn, within one invocation, on the same servers.
"""
