"""All faults at random against real servers, for as long as asked; then the oracle's verdict.

python -m tests.soak --minutes 30 --seed 7
"""
